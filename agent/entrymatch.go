package agent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/parley-mesh/parley/security/workload"
	"github.com/parley-mesh/parley/state"
)

// entryIndex finds the entries for what attestation found, without looking at all of them: each stands under one selector
// of its own that the kernel keeps. It is immutable.
type entryIndex struct {
	byBoundary map[string][]state.Entry
	denied     map[string][]state.Entry // those whose identity is denied
	until      time.Time                // when the first of the denials ends; zero: none does
}

// deniedID says whether a SPIFFE ID is denied, and until when; the zero time: for good.
type deniedID func(id string) (until time.Time, yes bool)

// indexEntries keeps the entries that count on a node.
func indexEntries(v *state.View, node string, denied deniedID) *entryIndex {
	x := &entryIndex{byBoundary: make(map[string][]state.Entry), denied: make(map[string][]state.Entry)}
	for _, e := range v.Entries() {
		if !v.EntryAllows(e, node) {
			continue
		}
		into := x.byBoundary
		if until, yes := denied(e.SPIFFEID); yes {
			into = x.denied
			if !until.IsZero() && (x.until.IsZero() || until.Before(x.until)) {
				x.until = until
			}
		}
		into[e.Boundary()] = append(into[e.Boundary()], e)
	}
	return x
}

// match returns the entries all of whose selectors were found, by SPIFFE ID, hint and name.
func (x *entryIndex) match(found map[string]bool) []state.Entry { return matching(x.byBoundary, found) }

// none is why there is no identity for what was found, when match returns none.
func (x *entryIndex) none(found map[string]bool) error {
	if len(matching(x.denied, found)) > 0 {
		return workload.ErrDenied
	}
	return workload.ErrNoIdentity
}

func matching(byBoundary map[string][]state.Entry, found map[string]bool) []state.Entry {
	var out []state.Entry
	for selector := range found {
		for _, e := range byBoundary[selector] {
			if len(missing(e, found)) == 0 {
				out = append(out, e)
			}
		}
	}
	slices.SortFunc(out, func(a, b state.Entry) int {
		return cmp.Or(cmp.Compare(a.SPIFFEID, b.SPIFFEID), cmp.Compare(a.Hint, b.Hint), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// missing lists the selectors of an entry that were not found.
func missing(e state.Entry, found map[string]bool) []string {
	var out []string
	for _, s := range e.Selectors {
		if !found[s] {
			out = append(out, s)
		}
	}
	return out
}

// A nearness is how an entry differs from what was found: one line for each difference, none if it holds.
type nearness struct {
	entry state.Entry
	lines []string
	held  int // selectors that were found
}

// nearEntries says of every entry how it differs from what was found on a node, the nearest first: the fewest differences,
// then the most that holds.
func nearEntries(v *state.View, node string, found []string, denied deniedID) []nearness {
	set := make(map[string]bool, len(found))
	for _, s := range found {
		set[s] = true
	}
	var out []nearness
	for _, e := range v.Entries() {
		lacks := missing(e, set)
		n := nearness{entry: e, held: len(e.Selectors) - len(lacks)}
		for _, s := range lacks {
			n.lines = append(n.lines, difference(s, found))
		}
		if !e.AllowsNode(node) {
			n.lines = append(n.lines, fmt.Sprintf("it is bound to %s, and this agent is %s", strings.Join(e.Nodes, ", "), node))
		} else if !v.EntryAllows(e, node) {
			n.lines = append(n.lines, fmt.Sprintf("it wants the service %q to be registered with this agent, and it is not", e.Service))
		}
		if until, yes := denied(e.SPIFFEID); yes {
			n.lines = append(n.lines, deniedLine(v, e.SPIFFEID, until))
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b nearness) int {
		return cmp.Or(cmp.Compare(len(a.lines), len(b.lines)), cmp.Compare(b.held, a.held), cmp.Compare(a.entry.Name, b.entry.Name))
	})
	return out
}

// difference says what was found in place of a selector.
func difference(selector string, found []string) string {
	kind, _, _ := strings.Cut(selector, ":")
	var instead []string
	for _, s := range found {
		if k, _, _ := strings.Cut(s, ":"); k == kind {
			instead = append(instead, s)
		}
	}
	if len(instead) == 0 {
		return fmt.Sprintf("it wants %s, and no %s was found", selector, kind)
	}
	return fmt.Sprintf("it wants %s, and found was %s", selector, strings.Join(instead, ", "))
}

// deniedLine says that an identity is denied, and what the applied state knows of it.
func deniedLine(v *state.View, id string, until time.Time) string {
	line := "its identity is denied"
	if !until.IsZero() {
		line += " until " + until.UTC().Format(time.RFC3339)
	}
	if d, ok := v.Deny(state.MarkOfID(id)); ok && !d.Removed {
		line += fmt.Sprintf(", by %s at %s", d.By, d.At.Wall().Format(time.RFC3339))
		if d.Reason != "" {
			line += ": " + d.Reason
		}
	}
	return line + " (parley deny list)"
}
