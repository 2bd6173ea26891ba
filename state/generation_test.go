package state

import (
	"fmt"
	"testing"
)

// marksOf are those of the generations first to last of the host, as one of its copies has drawn them from fork on.
func generationMarks(first, last, fork uint64, copied byte) []GenerationMark {
	var marks []GenerationMark
	for n := first; n <= last; n++ {
		m := GenerationMark{byte(n), byte(n >> 8)}
		if n >= fork {
			m[2] = copied
		}
		marks = append(marks, m)
	}
	return marks
}

func testClaim(node string, first, last uint64) GenerationClaim {
	return GenerationClaim{Node: node, Binding: 1, First: first, Marks: generationMarks(first, last, 0, 0)}
}

func chainOf(t *testing.T, m *Machine, node string) Generations {
	t.Helper()
	n, ok := m.View().Node(node)
	if !ok {
		t.Fatalf("there is no node %s", node)
	}
	return m.View().Generations(n)
}

// TestGenerationsJudged is the table of what a claim means.
func TestGenerationsJudged(t *testing.T) {
	known := Generations{Node: "a1", Generation: 40, Marks: generationMarks(9, 40, 0, 0)}
	jumps, begins := known, known
	jumps.Jumps, begins.BeginBy = true, 50
	fork := func(first, last, from uint64) GenerationClaim {
		return GenerationClaim{First: first, Marks: generationMarks(first, last, from, 1)}
	}
	for name, c := range map[string]struct {
		known Generations
		claim GenerationClaim
		want  GenerationVerdict
	}{
		"the first ever":                       {Generations{}, testClaim("", 1, 1), GenerationBegins},
		"the next":                             {known, testClaim("", 20, 41), GenerationFollows},
		"several on":                           {known, testClaim("", 40, 60), GenerationFollows},
		"a retry":                              {known, testClaim("", 30, 40), GenerationSame},
		"a retry that shows nothing":           {known, testClaim("", 40, 40), GenerationSame},
		"an old one":                           {known, testClaim("", 30, 39), GenerationPast},
		"the oldest that is remembered":        {known, testClaim("", 1, 9), GenerationPast},
		"another next one":                     {known, fork(30, 41, 41), GenerationFollows}, // who is first, nobody knows yet
		"another current one":                  {known, fork(30, 40, 40), GenerationForks},
		"a copy that has gone on by itself":    {known, fork(30, 50, 35), GenerationForks},
		"a copy of long ago":                   {known, fork(1, 12, 12), GenerationForks},
		"a guess":                              {known, fork(40, 41, 40), GenerationForks},
		"older than what is remembered":        {known, testClaim("", 1, 8), GenerationBefore},
		"nothing in common":                    {known, testClaim("", 41, 41), GenerationAhead},
		"nothing in common after a recovery":   {jumps, testClaim("", 41, 90), GenerationBegins},
		"something in common after a recovery": {jumps, testClaim("", 30, 90), GenerationFollows},
		"a copy of before a recovery":          {jumps, fork(30, 40, 40), GenerationForks},
		"an operator has allowed it":           {begins, fork(1, 3, 2), GenerationBegins},
	} {
		if got := c.known.Judge(c.claim, 50); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := begins.Judge(fork(30, 40, 40), 51); got != GenerationForks {
		t.Errorf("after the time in which an operator has allowed it: %s", got)
	}
}

// TestNodeGenerations: a chain begins and goes on, twice told is told once, what is remembered is bounded, and a second chain from
// the same generation shows a fork, after which the node's chain stands still.
func TestNodeGenerations(t *testing.T) {
	m := testGenesis()
	apply(t, m, stampAt(1000), TokenCreate{Token: testToken(1)}, testJoin(1, "a2"))
	tell := func(claims ...GenerationClaim) string {
		t.Helper()
		return fmt.Sprint(do(t, m, NodeGenerations{claims}, CodeOK).Body)
	}
	tell(testClaim("a1", 1, 1), testClaim("a2", 1, 1), testClaim("a9", 1, 1))
	if g := chainOf(t, m, "a1"); g.Generation != 1 || len(g.Marks) != 1 || m.View().Rows(TableGeneration) != 2 {
		t.Errorf("%+v", g)
	}
	revision := m.View().Revision()
	if tell(testClaim("a1", 1, 1)); m.View().Revision() != revision {
		t.Error("the same once more changes something")
	}
	for n := uint64(2); n <= 3*MaxGenerationWindow; n++ {
		tell(testClaim("a1", n-1, n))
	}
	if g := chainOf(t, m, "a1"); g.Generation != 3*MaxGenerationWindow || len(g.Marks) != MaxGenerationWindow {
		t.Errorf("%d, %d are remembered", g.Generation, len(g.Marks))
	}
	last := chainOf(t, m, "a1").Generation
	stranger := testClaim("a1", last, last+1)
	stranger.Binding = 2
	before := testClaim("a1", 1, 2) // old news
	if none := fmt.Sprint(number(0).Body); tell(stranger, before) != none || chainOf(t, m, "a1").Generation != last {
		t.Errorf("the chain of another host, or old news, count: %+v", chainOf(t, m, "a1"))
	}
	copied := GenerationClaim{Node: "a1", Binding: 1, First: last - 2, Marks: generationMarks(last-2, last+3, last, 1)}
	if one := fmt.Sprint(number(1).Body); tell(copied, testClaim("a2", 1, 2)) != one {
		t.Error("no fork is counted")
	}
	f, ok := m.View().Fork("a1")
	if !ok || f.Generation != last+3 || len(m.View().Forks()) != 1 || f.At == 0 {
		t.Errorf("%+v, %v", f, ok)
	}
	if tell(testClaim("a1", last, last+1)); chainOf(t, m, "a1").Generation != last {
		t.Error("the chain of a node that was seen twice goes on")
	}
	if chainOf(t, m, "a2").Generation != 2 {
		t.Error("another node's chain stands still")
	}
	before.Binding, before.Node, before.Live = 1, "a2", true
	tell(testClaim("a2", 2, 60))
	if tell(before); len(m.View().Forks()) != 2 {
		t.Error("a host that shows what is older than all that is remembered is not seen")
	}
}

// TestForkDecided: an operator's word lets whoever comes first begin anew, once and for an hour; what a core member has seen before
// counts no more. A host that joins again by a token begins anew as well. Leaving, and coming back, decide nothing.
func TestForkDecided(t *testing.T) {
	m := testGenesis()
	apply(t, m, stampAt(1000), TokenCreate{Token: testToken(1)}, TokenCreate{Token: testToken(2)}, testJoin(1, "a2"))
	claim := func(series, last uint64, copied byte) GenerationClaim {
		return GenerationClaim{Node: "a2", Binding: 1, Series: series, First: 1, Marks: generationMarks(1, last, last, copied)}
	}
	tell := func(claims ...GenerationClaim) { t.Helper(); do(t, m, NodeGenerations{claims}, CodeOK) }
	forked := func() bool { _, ok := m.View().Fork("a2"); return ok }
	if tell(claim(0, 5, 1), claim(0, 5, 2)); !forked() {
		t.Fatal("no fork")
	}
	if apply(t, m, stampAt(1100), NodeSetLeft{Node: "a2", Left: true}, NodeSetLeft{Node: "a2"}); !forked() {
		t.Error("a host that leaves and comes back is let in")
	}
	do(t, m, NodeTrust{Node: "a9"}, CodeNotFound)
	do(t, m, NodeTrust{Node: "a2"}, CodeOK)
	if forked() || chainOf(t, m, "a2").Series != 1 {
		t.Errorf("after an operator's word: %+v", chainOf(t, m, "a2"))
	}
	tell(claim(0, 6, 1)) // seen before, and written down late
	tell(claim(1, 3, 7))
	if g := chainOf(t, m, "a2"); g.Generation != 3 || g.BeginBy != 0 || g.Marks[2] != claim(1, 3, 7).Marks[2] {
		t.Errorf("who came first has not begun anew: %+v", g)
	}
	if tell(claim(1, 3, 8)); !forked() {
		t.Error("who came second is let in too")
	}
	if apply(t, m, stampAt(1200), testJoin(2, "a2")); forked() || len(chainOf(t, m, "a2").Marks) != 0 || chainOf(t, m, "a2").Binding != 2 {
		t.Errorf("after a token: %+v", chainOf(t, m, "a2"))
	}

	late := claim(1, 3, 9)
	late.Binding = 2
	first := claim(0, 3, 8)
	first.Binding = 2
	tell(first)
	do(t, m, NodeTrust{Node: "a2"}, CodeOK)
	apply(t, m, m.View().Stamp()+TrustMillis<<16+1<<16, NodeGenerations{[]GenerationClaim{late}})
	if !forked() {
		t.Error("an operator's word lasts for longer than an hour")
	}
}

// TestRecoverGenerations: after a restore no honest host looks like a copy, however far it is; a copy from before the backup still
// does. What a later copy of the public state says of forks stays.
func TestRecoverGenerations(t *testing.T) {
	m := beforeLoss(t)
	do(t, m, NodeGenerations{[]GenerationClaim{testClaim("a1", 1, 20), testClaim("a2", 1, 20)}}, CodeOK)
	backup := m.View()
	do(t, m, NodeGenerations{[]GenerationClaim{testClaim("a1", 20, 30), {Node: "a2", Binding: 1, First: 20, Marks: generationMarks(20, 20, 20, 1)}}}, CodeOK)
	known := publicCopy(t, m.View())
	if len(known.Forks()) != 1 || known.Rows(TableGeneration) != 0 {
		t.Fatal("agents outside the core know other things than forks")
	}
	for name, c := range map[string]struct {
		claim GenerationClaim
		want  GenerationVerdict
	}{
		"ten on":                   {testClaim("a1", 1, 30), GenerationFollows},
		"further than it can show": {testClaim("a1", 400, 560), GenerationBegins},
		"it has not moved":         {testClaim("a1", 1, 20), GenerationSame},
		"a copy of before":         {GenerationClaim{First: 1, Marks: generationMarks(1, 11, 11, 1)}, GenerationForks},
		"another at the same time": {GenerationClaim{First: 1, Marks: generationMarks(1, 20, 20, 1)}, GenerationForks},
	} {
		o := recoverOptions()
		o.Known = known
		v := mustRecover(t, backup, o)
		n, _ := v.Node("a1")
		if got := v.Generations(n).Judge(c.claim, v.Stamp()); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if _, ok := v.Fork("a2"); !ok {
			t.Error("the fork of a2 is forgotten")
		}
	}
	v := mustRecover(t, backup, recoverOptions())
	n, _ := v.Node("a1")
	jumped := v.Generations(n)
	if next := jumped.With(testClaim("a1", 400, 560), GenerationBegins); next.Jumps || next.Generation != 560 || len(next.Marks) != MaxGenerationWindow {
		t.Errorf("a second time: %+v", next)
	}
}

// TestGenerationLimits reaches those of a command.
func TestGenerationLimits(t *testing.T) {
	many := make([]GenerationClaim, MaxGenerationClaims)
	for i := range many {
		many[i] = testClaim("a1", 1, MaxGenerationMarks)
	}
	if err := (NodeGenerations{many}).check(); err != nil {
		t.Error(err)
	}
	if _, err := Encode(Envelope{Command: NodeGenerations{many}}, Version); err != nil {
		t.Errorf("the largest command: %v", err)
	}
	for what, c := range map[string]NodeGenerations{
		"no claims":      {},
		"too many":       {append(many, many[0])},
		"no marks":       {[]GenerationClaim{{Node: "a1", First: 1}}},
		"too many marks": {[]GenerationClaim{testClaim("a1", 1, MaxGenerationMarks+1)}},
		"generation 0":   {[]GenerationClaim{testClaim("a1", 0, 1)}},
		"no node":        {[]GenerationClaim{testClaim("", 1, 1)}},
	} {
		if c.check() == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
