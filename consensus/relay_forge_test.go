package consensus

import (
	"fmt"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// forgedAck lets a lying hub bring to a leader, which is cut off from the rest, the word of a third member that it holds
// a write. It reports whether the leader acknowledged the write, and whether the others then applied another one in its
// place.
func forgedAck(t *testing.T) (acked, diverged bool) {
	c := newReplicas(t, 3, sealing)
	leader := c.leader()
	c.tick(5)
	self := leader.n.opts.ID
	third, hub := self%3+1, (self+1)%3+1
	c.only([2]uint64{third, hub})
	c.do(leader.Propose([]byte("k=lost"), func(_ Proposed, err error) { acked = err == nil }))
	c.settle()
	index := leader.n.core.log.last()
	ack, err := appendMessage(nil, &raftpb.Message{
		Type: raftpb.MsgAppResp.Enum(), From: new(third), To: new(self), Term: new(leader.Term()), Index: new(index)})
	if err != nil {
		t.Fatal(err)
	}
	lie := envelope{origin: third, final: self, life: 1 << 60, finalLife: leader.n.core.relay.life, seq: 1}
	if err := leader.Receive(fmt.Sprint(hub), bring(append(lie.append(nil, ack), make([]byte, envelopeMAC)...))); err != nil {
		t.Fatalf("the hub's connection ends: %v", err)
	}
	c.settle()
	for range 100 {
		if c.leads([]uint64{third, hub}) != nil {
			break
		}
		c.tick(1)
	}
	next := c.leads([]uint64{third, hub})
	if next == nil || !c.put(next, "k") {
		t.Fatal("control: the other two do not write")
	}
	c.tick(5)
	lost := c.cells[self-1].state.Values["k"] == "lost"
	return acked, lost && c.cells[hub-1].state.Values["k"] == "v" && next.Applied() >= index
}

// TestLyingHub: a hub that brings a forged acknowledgement makes no leader commit what is on its own disk alone.
func TestLyingHub(t *testing.T) {
	if acked, diverged := forgedAck(t); acked || diverged {
		t.Errorf("acknowledged %v, diverged %v", acked, diverged)
	}
}
