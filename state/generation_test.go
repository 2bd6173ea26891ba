package state

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/parley-mesh/parley/clock"
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
	for word, want := range map[clock.Stamp]GenerationVerdict{0: GenerationForks, 49: GenerationForks, 51: GenerationForks, 50: GenerationBegins} {
		late := fork(30, 40, 40)
		late.Word = word
		if got := begins.Judge(late, 51); got != want {
			t.Errorf("after the time in which an operator has allowed it, by the word %d: %s, want %s", word, got, want)
		}
		if got := known.Judge(late, 51); got != GenerationForks {
			t.Errorf("by a word that nobody has given: %s", got)
		}
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

// TestWordIsKept: a host that a core member has let begin anew in time has begun, however late the log hears of it. What names no word,
// another one, or one that was used begins nothing, and shows a fork as ever.
func TestWordIsKept(t *testing.T) {
	claim := func(last uint64, copied byte, word clock.Stamp) GenerationClaim {
		return GenerationClaim{Node: "a2", Binding: 1, Series: 1, First: 1, Marks: generationMarks(1, last, last, copied), Word: word}
	}
	trusted := func() (m *Machine, word clock.Stamp, tell func(...GenerationClaim)) {
		m = testGenesis()
		apply(t, m, stampAt(1000), TokenCreate{Token: testToken(1)}, testJoin(1, "a2"))
		first := claim(5, 1, 0)
		first.Series = 0
		do(t, m, NodeGenerations{[]GenerationClaim{first}}, CodeOK)
		do(t, m, NodeTrust{Node: "a2"}, CodeOK)
		return m, chainOf(t, m, "a2").BeginBy, func(claims ...GenerationClaim) {
			t.Helper()
			apply(t, m, m.View().Stamp()+10*TrustMillis<<16, NodeGenerations{claims})
		}
	}
	m, word, tell := trusted()
	mine := claim(5, 2, word)
	tell(mine)
	if g := chainOf(t, m, "a2"); len(m.View().Forks()) != 0 || g.BeginBy != 0 || g.Marks[4] != mine.Marks[4] {
		t.Errorf("a host that was let in in time: %+v, %v", g, m.View().Forks())
	}
	if tell(mine); len(m.View().Forks()) != 0 {
		t.Error("the same once more shows a fork")
	}
	if tell(claim(5, 3, word)); len(m.View().Forks()) != 1 {
		t.Error("two have begun by one word")
	}
	for what, of := range map[string]func(word clock.Stamp) clock.Stamp{
		"no word":     func(clock.Stamp) clock.Stamp { return 0 },
		"a later one": func(word clock.Stamp) clock.Stamp { return word + 1 },
		"one before":  func(word clock.Stamp) clock.Stamp { return word - 1 },
	} {
		m, word, tell := trusted()
		if tell(claim(5, 2, of(word))); len(m.View().Forks()) != 1 {
			t.Errorf("%s begins anew", what)
		}
	}
	m, word, tell = trusted()
	do(t, m, NodeTrust{Node: "a2"}, CodeOK)
	if tell(claim(5, 2, word)); chainOf(t, m, "a2").Marks[4] == claim(5, 2, 0).Marks[4] || chainOf(t, m, "a2").BeginBy == 0 {
		t.Error("a word of before is good for the one after")
	}
}

// TestClaimsWithoutWords: a command without a word is written as it was before there were words.
func TestClaimsWithoutWords(t *testing.T) {
	c := NodeGenerations{[]GenerationClaim{{Node: "a1", Binding: 2, Series: 3, First: 4, Marks: []GenerationMark{{5}}, Live: true}}}
	before := slices.Concat([]byte{1, 2, 'a', '1', 2, 3, 4, 1, 5}, make([]byte, 15), []byte{1})
	if got := c.append(nil); !bytes.Equal(got, before) {
		t.Errorf("%x, want %x", got, before)
	}
	read := func(b []byte) error {
		r := &reader{b: b}
		readNodeGenerations(r)
		return r.done()
	}
	if err := read(before); err != nil {
		t.Error(err)
	}
	if err := read(append(slices.Clone(before), 9)); err != nil {
		t.Errorf("a word: %v", err)
	}
	for _, more := range [][]byte{{0}, {9, 9}} {
		if read(append(slices.Clone(before), more...)) == nil {
			t.Errorf("%x is read", more)
		}
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

// TestRecoverForks: of the state that comes back and the copy of the public state that the host has, the later one says which forks are
// open. What was decided does not come back, not for the host that has the name since either; what nobody has decided does not go.
func TestRecoverForks(t *testing.T) {
	fork := NodeGenerations{[]GenerationClaim{testClaim("a2", 1, 20), {Node: "a2", Binding: 1, First: 20, Marks: generationMarks(20, 20, 20, 1)}}}
	again := NodeGenerations{[]GenerationClaim{{Node: "a2", Binding: 1, Series: 1, First: 20, Marks: generationMarks(20, 20, 20, 1)},
		{Node: "a2", Binding: 1, Series: 1, First: 20, Marks: generationMarks(20, 20, 20, 2)}}}
	replaced := testJoin(2, "a2")
	for name, c := range map[string]struct {
		before, between []Command // until the earlier one of backup and copy, and from then until the later one
		copyLater, open bool
	}{
		"seen, and nothing since":                    {before: []Command{fork}, copyLater: true, open: true},
		"seen after the backup":                      {between: []Command{fork}, copyLater: true, open: true},
		"trusted after the backup":                   {before: []Command{fork}, between: []Command{NodeTrust{Node: "a2"}}, copyLater: true},
		"replaced after the backup":                  {before: []Command{fork}, between: []Command{replaced}, copyLater: true},
		"trusted and seen again after the backup":    {before: []Command{fork}, between: []Command{NodeTrust{Node: "a2"}, again}, copyLater: true, open: true},
		"an old copy, trusted since":                 {before: []Command{fork}, between: []Command{NodeTrust{Node: "a2"}}},
		"an old copy, replaced since":                {before: []Command{fork}, between: []Command{replaced}},
		"an old copy, seen since":                    {between: []Command{fork}, open: true},
		"an old copy, trusted and seen again since":  {before: []Command{fork}, between: []Command{NodeTrust{Node: "a2"}, again}, open: true},
		"a copy of the same time, which was trusted": {before: []Command{fork, NodeTrust{Node: "a2"}}},
	} {
		m := beforeLoss(t)
		for _, command := range c.before {
			do(t, m, command, CodeOK)
		}
		early := m.View()
		for _, command := range c.between {
			do(t, m, command, CodeOK)
		}
		from, known := m.View(), early
		if c.copyLater {
			from, known = early, m.View()
		}
		o := recoverOptions()
		o.Known = publicCopy(t, known)
		v := mustRecover(t, from, o)
		if _, open := v.Fork("a2"); open != c.open {
			t.Errorf("%s: open %t, want %t", name, open, c.open)
		}
		n, _ := v.Node("a2")
		if n.BindingEpoch == 2 && v.Rows(TableGeneration) != 0 {
			t.Errorf("%s: what is known of the host before is known of the one that replaced it", name)
		}
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
