package state

import (
	"fmt"

	"github.com/parley-mesh/parley/clock"
)

// Limits of generations, part of the meaning of version 1 of NodeGenerations and NodeTrust.
const (
	// MaxGenerationWindow is how many of a node's last generations are remembered.
	MaxGenerationWindow = 32
	// MaxGenerationMarks is how many generations one claim tells of.
	MaxGenerationMarks = 161
	// MaxGenerationClaims is how many claims one command holds.
	MaxGenerationClaims = 128
	// TrustMillis is for how long after NodeTrust a node may begin its chain anew.
	TrustMillis = 60 * 60 * 1000
)

// GenerationMark stands for the secret of one generation, of which nobody can tell the secret.
type GenerationMark [16]byte

// Generations is what the cluster knows of the secrets that a host has had one after the other. Only the host itself draws
// one, and only one for each generation, so two hosts that show different ones for the same generation are copies of one.
type Generations struct {
	Node       string
	Binding    uint64           // Node.BindingEpoch of the host: another host has other secrets
	Series     uint64           // one more with each NodeTrust: what was claimed before counts no more
	Generation uint64           // of the last mark
	Marks      []GenerationMark // the last ones, oldest first; none of a host that has shown no secret yet
	// Jumps says that the cluster was recovered from an older state since: the host may be further than a claim can show.
	Jumps bool
	// BeginBy is until when the host may begin anew; 0 if an operator has not allowed it.
	BeginBy clock.Stamp
}

// GenerationClaim tells of a host's generations from First on, without a gap: that it had shown the secrets to a core member,
// except for that of the last, whose mark alone it has shown.
type GenerationClaim struct {
	Node            string
	Binding, Series uint64
	First           uint64
	Marks           []GenerationMark
	// Live says that the host itself has asked by it just now, so that it is no old news of another core member.
	Live bool
	// Word is the BeginBy of the operator's word by which a core member has let the host begin anew, in time; 0 if it has not.
	// However late that is written down, it is so, unless another has begun by the same word.
	Word clock.Stamp
}

// Last is the newest generation of the claim.
func (c GenerationClaim) Last() uint64 { return c.First + uint64(len(c.Marks)) - 1 }

// A GenerationVerdict is what a claim means for what is known.
type GenerationVerdict string

// The verdicts.
const (
	GenerationBegins  GenerationVerdict = "begins"  // nothing is known, or the host may begin anew
	GenerationFollows GenerationVerdict = "follows" // it goes on from what is known
	GenerationSame    GenerationVerdict = "same"    // it is what is known: a retry
	GenerationPast    GenerationVerdict = "past"    // it was true, and the host has gone on since
	GenerationForks   GenerationVerdict = "forks"   // it contradicts what is known: there are two of the host, or one that went back
	GenerationBefore  GenerationVerdict = "before"  // it is older than all that is remembered
	GenerationAhead   GenerationVerdict = "ahead"   // it begins after all that is known
)

// Judge compares a claim with what is known, at a stamp of the log. It does not look at binding and series.
func (g Generations) Judge(c GenerationClaim, at clock.Stamp) GenerationVerdict {
	if len(g.Marks) == 0 || g.BeginBy != 0 && (at <= g.BeginBy || c.Word == g.BeginBy) {
		return GenerationBegins
	}
	oldest := g.Generation + 1 - uint64(len(g.Marks))
	switch {
	case c.Last() < oldest:
		return GenerationBefore
	case c.First > g.Generation && g.Jumps:
		return GenerationBegins
	case c.First > g.Generation:
		return GenerationAhead
	}
	for n := max(oldest, c.First); n <= min(g.Generation, c.Last()); n++ {
		if g.Marks[n-oldest] != c.Marks[n-c.First] {
			return GenerationForks
		}
	}
	switch {
	case c.Last() > g.Generation:
		return GenerationFollows
	case c.Last() == g.Generation:
		return GenerationSame
	}
	return GenerationPast
}

// With is what is known after a claim that begins or follows.
func (g Generations) With(c GenerationClaim, verdict GenerationVerdict) Generations {
	next := Generations{Node: g.Node, Binding: g.Binding, Series: g.Series, Generation: c.Last()}
	if verdict == GenerationFollows {
		next.Marks = append(next.Marks, g.Marks...)
		next.Marks = append(next.Marks, c.Marks[g.Generation+1-c.First:]...)
	} else {
		next.Marks = append(next.Marks, c.Marks...)
	}
	next.Marks = next.Marks[max(0, len(next.Marks)-MaxGenerationWindow):]
	return next
}

// Fork says that a host was seen twice, or went back to an older copy of itself. Nobody renews the node's certificates until an
// operator has decided.
type Fork struct {
	Node       string
	Generation uint64 // the newest of the claim that contradicted
	At         clock.Stamp
	By         string // the caller of the command, of the core member that saw it
}

// NodeGenerations tells of several hosts' generations what a core member has seen. The result's Number is how many forks
// that showed. The same once more changes nothing.
type NodeGenerations struct{ Claims []GenerationClaim }

// NodeTrust is an operator's decision about a node: whoever holds its host key, and asks first, begins the node's chain anew
// within TrustMillis. A fork is forgotten.
type NodeTrust struct{ Node string }

func (NodeGenerations) kind() kind { return kindNodeGenerations }
func (NodeTrust) kind() kind       { return kindNodeTrust }

func (c NodeGenerations) check() error {
	if len(c.Claims) == 0 || len(c.Claims) > MaxGenerationClaims {
		return fmt.Errorf("%d claims of generations: use 1 to %d", len(c.Claims), MaxGenerationClaims)
	}
	for _, claim := range c.Claims {
		if err := claim.check(); err != nil {
			return err
		}
	}
	return nil
}

func (c GenerationClaim) check() error {
	if len(c.Marks) == 0 || len(c.Marks) > MaxGenerationMarks {
		return fmt.Errorf("a claim of %d generations: use 1 to %d", len(c.Marks), MaxGenerationMarks)
	}
	if c.First == 0 || c.First > 1<<62 {
		return fmt.Errorf("a claim from generation %d on: they are counted from 1", c.First)
	}
	return CheckNodeName(c.Node)
}

func (c NodeTrust) check() error { return CheckNodeName(c.Node) }

func (c NodeGenerations) apply(a *applying) Result {
	forks := uint64(0)
	for _, claim := range c.Claims {
		if a.claim(claim) {
			forks++
		}
	}
	return number(forks)
}

// claim takes one in, and reports whether it shows a fork. What is about another host of that name, or from before an
// operator's decision, is none.
func (a *applying) claim(c GenerationClaim) (forked bool) {
	n, ok := a.s.node(c.Node)
	if !ok || n.Left || n.BindingEpoch != c.Binding {
		return false
	}
	g := a.s.generations(n)
	if _, forked := a.s.get(TableFork, c.Node); forked || g.Series != c.Series {
		return false
	}
	switch verdict := g.Judge(c, a.at); {
	case verdict == GenerationBegins || verdict == GenerationFollows:
		a.set(TableGeneration, c.Node, encodeGenerations(g.With(c, verdict)))
	case verdict == GenerationForks || verdict == GenerationBefore && c.Live:
		a.set(TableFork, c.Node, encodeFork(Fork{Node: c.Node, Generation: c.Last(), At: a.at, By: a.caller}))
		return true
	}
	return false
}

func (c NodeTrust) apply(a *applying) Result {
	n, ok := a.s.node(c.Node)
	if !ok || n.Left {
		return refuse(CodeNotFound, "there is no node %q, or it has left", c.Node)
	}
	g := a.s.generations(n)
	_, forked := a.s.get(TableFork, c.Node)
	if !forked && len(g.Marks) == 0 {
		return Result{} // there is nothing to decide
	}
	if forked {
		a.set(TableFork, c.Node, nil)
	}
	g.Series++
	g.BeginBy = a.at + TrustMillis<<16 // in the units of a stamp
	a.set(TableGeneration, c.Node, encodeGenerations(g))
	return Result{}
}

// forgetGenerations is for a host that an operator's token has let in: it begins anew.
func (a *applying) forgetGenerations(node string) {
	for _, table := range []Table{TableGeneration, TableFork} {
		if _, ok := a.s.get(table, node); ok {
			a.set(table, node, nil)
		}
	}
}

// recoverGenerations lets each host go on that is further than the state: its claim follows, or begins anew where it cannot show
// so much. What the state knows of goes back for nobody. Of forks a later copy of the public state knows better: those that it has
// stay, and those that it has no more were decided. The nodes are those of the recovered state by now.
func (a *applying) recoverGenerations(v, known *View) {
	for _, g := range rows(a.s, TableGeneration, func(r *record) (Generations, error) { return decodeGenerations(r.row) }) {
		if !a.isHost(g.Node, g.Binding) {
			a.set(TableGeneration, g.Node, nil) // another one has the name since
			continue
		}
		g.Jumps = true
		a.set(TableGeneration, g.Node, encodeGenerations(g))
	}
	if known == nil {
		return
	}
	ours, theirs := v.Cluster().Epoch.Counter, known.Cluster().Epoch.Counter
	for _, f := range v.Forks() {
		_, open := known.Fork(f.Node)
		later := theirs > ours || theirs == ours && known.Revision() >= v.RowRevision(TableFork, f.Node)
		if later && !open {
			a.set(TableFork, f.Node, nil)
		}
	}
	for _, f := range known.Forks() {
		n, _ := known.Node(f.Node) // a fork is of the host that has the name: whoever joins ends it
		later := theirs > ours || theirs == ours && known.RowRevision(TableFork, f.Node) > v.Revision()
		if later && a.isHost(f.Node, n.BindingEpoch) {
			a.set(TableFork, f.Node, encodeFork(f))
		}
	}
}

// isHost tells whether a node is the host that had its name at that binding.
func (a *applying) isHost(node string, binding uint64) bool {
	n, ok := a.s.node(node)
	return ok && n.BindingEpoch == binding
}

// generations is what is known of the host that a node is now.
func (s *store) generations(n Node) Generations {
	if r, ok := s.get(TableGeneration, n.Name); ok {
		if g := must(decodeGenerations(r.row)); g.Binding == n.BindingEpoch {
			return g
		}
	}
	return Generations{Node: n.Name, Binding: n.BindingEpoch}
}

// Generations returns what is known of the secrets of the host that a node is now. Agents outside the core know nothing.
func (v *View) Generations(n Node) Generations { return v.s.generations(n) }

// Fork returns when and how a node was seen twice, if it was and no operator has decided since.
func (v *View) Fork(node string) (Fork, bool) {
	r, ok := v.s.get(TableFork, node)
	if !ok {
		return Fork{}, false
	}
	return must(decodeFork(r.row)), true
}

// Forks returns all of them, by name of the node.
func (v *View) Forks() []Fork {
	return rows(v.s, TableFork, func(r *record) (Fork, error) { return decodeFork(r.row) })
}
