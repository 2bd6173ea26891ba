package consensus

import "testing"

// TestAbstains: a member that abstains is never elected, takes no lead that is given to it, votes and replicates; it stands
// again when it abstains no more. Control: without abstaining the same member is elected in some runs.
func TestAbstains(t *testing.T) {
	elected := map[bool]int{}
	for seed := range uint64(12) {
		for _, abstains := range []bool{true, false} {
			s := newSim(t, seed)
			quiet := abstains
			s.tune = func(c *coreConfig) {
				if c.id == 2 {
					c.abstain = func() bool { return quiet }
				}
			}
			for id := range uint64(3) {
				s.add(id+1, 1, 2, 3)
			}
			s.lead(1)
			if abstains {
				s.nodes[1].ask(&request{target: 2}, (*core).transferTo)
				if s.tick(2 * defaultElectionTicks); s.nodes[2].core.leads() {
					t.Fatal("it took the lead that was given to it")
				}
			}
			s.nodes[s.current()].crash(false)
			s.tick(100)
			id := s.current()
			if id == 2 {
				elected[abstains]++
			}
			if id == 0 {
				t.Fatalf("seed %d: its vote, or its log, was not there for another one\n%s", seed, s.describe())
			}
			if abstains {
				for _, n := range s.nodes {
					if n.id != 2 && n.id != id {
						n.start()
					}
				}
				s.nodes[id].propose("k", "v")
				s.tick(4)
				if s.nodes[2].machine.get("k") != "v" {
					t.Error("it does not replicate")
				}
				quiet = false
				s.cut[[2]uint64{1, 3}], s.cut[[2]uint64{3, 1}] = true, true
				s.nodes[id].ask(&request{target: 2}, (*core).transferTo)
				if s.tick(2 * defaultElectionTicks); !s.nodes[2].core.leads() {
					t.Error("it never leads again")
				}
			}
			s.sound(t)
		}
	}
	if elected[true] > 0 || elected[false] == 0 {
		t.Errorf("elected while it abstained %d times, control %d", elected[true], elected[false])
	}
}
