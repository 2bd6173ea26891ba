package agent

import (
	"maps"
	"slices"
	"time"

	"github.com/parley-mesh/parley/state"
)

// generationBusy is the verdict of a full book.
const generationBusy state.GenerationVerdict = "busy"

// generationBook is what a core member has seen of hosts' generations and does not know to be in the log. Certificates are signed
// before that, and without a quorum nothing gets there; what this member itself has accepted counts for it all the same. A book is of
// one epoch and of one time in the core: what was seen in another is about a history that may be gone.
type generationBook struct {
	epoch   uint64                           // counter of the newest epoch that was seen
	held    map[string]state.GenerationClaim // the newest that was accepted, by node
	accused map[string]state.GenerationClaim // one that contradicts what was known, by node
	repeats map[string]repeat                // hosts that show what the state has, by node
	limit   int                              // of each
}

// repeat is that a host has shown its newest generation, which the state has, once more, and again and again.
type repeat struct {
	generation uint64
	times      int           // repeatApart apart
	last       time.Duration // the last one that counted
}

const (
	// repeatApart is how far apart those of a host have to be to count: what is closer are retries after lost answers.
	repeatApart = 30 * time.Minute
	// repeatTimes is from which on they are worth a word.
	repeatTimes = 4
)

func newGenerationBook(limit int) *generationBook {
	b := &generationBook{limit: limit}
	b.clear()
	return b
}

func (b *generationBook) clear() {
	b.held, b.accused, b.repeats = make(map[string]state.GenerationClaim), make(map[string]state.GenerationClaim), make(map[string]repeat)
}

// enter clears the book when the cluster was recovered since. A view of before, which some request still has, brings nothing back.
func (b *generationBook) enter(v *state.View) {
	if now := v.Cluster().Epoch.Counter; now > b.epoch {
		b.clear()
		b.epoch = now
	}
}

// admit judges a claim that its host has just made by the applied state and by what is held. It is accepted if the verdict is
// begins, follows or same.
func (b *generationBook) admit(known state.Generations, c state.GenerationClaim, v *state.View) state.GenerationVerdict {
	h, held := b.held[c.Node]
	held = held && sameHost(h, c)
	if known.BeginBy != 0 && (v.Stamp() <= known.BeginBy || held && h.Word == known.BeginBy) {
		c.Word = known.BeginBy // in time, or used here when it was, so that what it made void counts no more
	}
	verdict := known.Judge(c, v.Stamp())
	if held && accepts(verdict) {
		mine := heldGenerations(h).Judge(c, 0)
		if !accepts(mine) && (mine != state.GenerationAhead || verdict == state.GenerationBegins) { // a host begins once
			verdict = mine
		}
	}
	switch verdict {
	case state.GenerationForks, state.GenerationBefore:
		if _, again := b.accused[c.Node]; again || len(b.accused) < b.limit {
			c.Word = 0 // it is not what has begun by it
			b.accused[c.Node] = lastMarks(c)
		}
		return state.GenerationForks
	case state.GenerationSame:
		delete(b.held, c.Node)
	case state.GenerationBegins, state.GenerationFollows:
		delete(b.repeats, c.Node)
		if _, again := b.held[c.Node]; !again && len(b.held) >= b.limit {
			return generationBusy
		}
		b.held[c.Node] = newsOf(known, c, verdict)
	}
	return verdict
}

// repeated counts that a host has shown what the state has of it already, and reports whether it goes on doing so: its answers do not
// all get lost, so it cannot write, or it is a copy that does not want to be found.
func (b *generationBook) repeated(c state.GenerationClaim, now time.Duration) bool {
	r, ok := b.repeats[c.Node]
	switch {
	case !ok && len(b.repeats) >= b.limit:
		return false
	case !ok || r.generation != c.Last():
		r = repeat{generation: c.Last(), times: 1, last: now}
	case now-r.last >= repeatApart:
		r.times, r.last = min(r.times+1, repeatTimes), now
	}
	b.repeats[c.Node] = r
	return r.times == repeatTimes
}

// accepts tells the verdicts by which a host is renewed.
func accepts(v state.GenerationVerdict) bool {
	return v == state.GenerationBegins || v == state.GenerationFollows || v == state.GenerationSame
}

func sameHost(a, b state.GenerationClaim) bool { return a.Binding == b.Binding && a.Series == b.Series }

func heldGenerations(h state.GenerationClaim) state.Generations {
	return state.Generations{Generation: h.Last(), Marks: h.Marks}
}

// newsOf leaves out what the applied state knows, but for the generation that the rest follows.
func newsOf(known state.Generations, c state.GenerationClaim, verdict state.GenerationVerdict) state.GenerationClaim {
	c.Live = false
	if verdict == state.GenerationFollows {
		c.Marks = c.Marks[known.Generation-c.First:] // all of them: the state has to be able to follow
		c.First = known.Generation
		return c
	}
	return lastMarks(c)
}

// lastMarks leaves out what is older than what the state remembers, with one more that it may follow.
func lastMarks(c state.GenerationClaim) state.GenerationClaim {
	if over := len(c.Marks) - (state.MaxGenerationWindow + 1); over > 0 {
		c.First += uint64(over)
		c.Marks = c.Marks[over:]
	}
	return c
}

// next is what to propose, at most limit, and forgets what need not be: what the state has, and what is about another host by now.
// What was held comes before what contradicts it.
func (b *generationBook) next(v *state.View, limit int) []state.GenerationClaim {
	var out []state.GenerationClaim
	for _, node := range slices.Sorted(maps.Keys(b.held)) {
		c := b.held[node]
		known, open := openGenerations(v, c)
		switch verdict := known.Judge(c, v.Stamp()); {
		case !open, !accepts(verdict) && verdict != state.GenerationForks, verdict == state.GenerationSame:
			delete(b.held, node)
		case len(out) < limit:
			out = append(out, c)
		}
	}
	for _, node := range slices.Sorted(maps.Keys(b.accused)) {
		if _, open := openGenerations(v, b.accused[node]); !open {
			delete(b.accused, node)
		} else if len(out) < limit {
			out = append(out, b.accused[node])
		}
	}
	return out
}

// openGenerations is what the state knows of the host of a claim, and whether there is anything left to tell it.
func openGenerations(v *state.View, c state.GenerationClaim) (known state.Generations, open bool) {
	n, ok := v.Node(c.Node)
	if !ok || n.Left || n.BindingEpoch != c.Binding {
		return known, false
	}
	known = v.Generations(n)
	_, forked := v.Fork(c.Node)
	return known, !forked && known.Series == c.Series
}

// told forgets what the log has now.
func (b *generationBook) told(claims []state.GenerationClaim) {
	for _, c := range claims {
		for _, of := range []map[string]state.GenerationClaim{b.held, b.accused} {
			if now, ok := of[c.Node]; ok && now.Live == c.Live && sameHost(now, c) && now.Last() == c.Last() {
				delete(of, c.Node)
			}
		}
	}
}
