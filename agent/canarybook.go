package agent

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
)

const (
	// canaryMemory is how long a loss is told of by metric and alert. The timeline tells of it for longer.
	canaryMemory = 24 * time.Hour
	// canaryKeepers is how many agents outside the core keep receipts beside all core members: enough that a core which is
	// lost whole is told of, and few enough that a large cluster does not ask the leader for nothing.
	canaryKeepers = 2

	maxCanaryBytes = 64 << 10 // of the file; what it holds is bounded to less
)

// canaryBook is what an agent remembers of canaries apart from log and snapshots: those that it saw acknowledged, each of
// them its own receipt, and those of them that it missed later. It decides what is lost, and does nothing else.
//
// A canary goes from the state in one way only: state.MaxCanaries newer ones push it out. So one that is remembered has to
// be in the state, or the state is full of newer ones; else writes are gone that somebody was told are done. A recovery is
// allowed to do that, and the loss is told all the same, with the epoch: whoever relies on the writes has to know.
// An agent that was away while the state filled up again says nothing.
type canaryBook struct {
	Seen []state.Canary `json:"seen"` // oldest first, at most state.MaxCanaries
	Lost []lostCanary   `json:"lost"` // in the order in which they were missed, at most state.MaxCanaries, the newest
}

// lostCanary is one that was acknowledged and is gone.
type lostCanary struct {
	state.Canary
	In    uint64      `json:"in"`    // the epoch in which it was missed
	Found clock.Stamp `json:"found"` // the stamp of the state that it was not in
}

// canarySight is a state that contains every write that was acknowledged before.
type canarySight struct {
	canaries []state.Canary // oldest first
	epoch    uint64
	at       clock.Stamp
}

// look compares what is remembered with what there is, and returns what is to be remembered from now on, and what is newly
// missed. With keep it remembers what it had not seen yet.
func (b canaryBook) look(s canarySight, keep bool) (next canaryBook, missed []lostCanary) {
	for _, c := range b.Seen {
		_, there := slices.BinarySearchFunc(s.canaries, c, canaryOrder)
		switch {
		case there && slices.Contains(s.canaries, c):
			next.Seen = append(next.Seen, c)
		case len(s.canaries) >= state.MaxCanaries && canaryOrder(c, s.canaries[0]) < 0: // pushed out
		default:
			missed = append(missed, lostCanary{c, s.epoch, s.at})
		}
	}
	if keep {
		next.Seen = s.canaries
	}
	next.Seen = newest(next.Seen)
	for _, l := range b.Lost {
		if s.at.Wall().Sub(l.Found.Wall()) < canaryMemory {
			next.Lost = append(next.Lost, l)
		}
	}
	next.Lost = newest(append(next.Lost, missed...))
	return next, missed
}

func canaryOrder(a, b state.Canary) int {
	return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Place, b.Place))
}

func newest[T any](list []T) []T { return list[max(0, len(list)-state.MaxCanaries):] }

// equal reports whether two books say the same.
func (b canaryBook) equal(o canaryBook) bool {
	return slices.Equal(b.Seen, o.Seen) && slices.Equal(b.Lost, o.Lost)
}

// canaryLoss says in a line what is gone; missed is not empty.
func canaryLoss(missed []lostCanary) string {
	first := missed[0]
	text := fmt.Sprintf("%d canaries that were acknowledged are gone, the first at index %d of epoch %d, of %s, and with them what was written beside them: ",
		len(missed), first.Index, first.Epoch, first.At.Wall().Format(time.RFC3339))
	if first.In > first.Epoch {
		return text + fmt.Sprintf("the recovery into epoch %d gave them up", first.In)
	}
	return text + "no recovery did that, the core has lost them"
}

// keepsCanaries reports whether an agent is one of those that remember: a core member, or one of the first few others in an
// order that is everybody's, and nobody's choice.
func keepsCanaries(self string, core, nodes []string) bool {
	if slices.Contains(core, self) {
		return true
	}
	rank := func(name string) uint64 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(name)) // never fails
		return h.Sum64()
	}
	before, known := 0, false
	for _, node := range nodes {
		if slices.Contains(core, node) {
			continue
		}
		known = known || node == self
		if cmp.Or(cmp.Compare(rank(node), rank(self)), cmp.Compare(node, self)) < 0 {
			before++
		}
	}
	return known && before < canaryKeepers
}

// encode returns the book's file: the SHA-256 of what follows, in hexadecimal, a line feed, and JSON.
func (b canaryBook) encode() ([]byte, error) {
	text, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	return append(append([]byte(hex.EncodeToString(sum[:])), '\n'), text...), nil
}

// decodeCanaryBook reads what encode wrote. The error says that something else did, or that it is damaged.
func decodeCanaryBook(file []byte) (canaryBook, error) {
	sum, text, _ := bytes.Cut(file, []byte("\n"))
	want := sha256.Sum256(text)
	var b canaryBook
	switch {
	case len(file) > maxCanaryBytes:
		return b, fmt.Errorf("%d bytes are more than any book of canaries has", len(file))
	case string(sum) != hex.EncodeToString(want[:]):
		return b, errors.New("the checksum is that of other bytes")
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return canaryBook{}, err
	}
	b.Seen, b.Lost = newest(b.Seen), newest(b.Lost)
	return b, nil
}
