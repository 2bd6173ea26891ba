package agent

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/parley-mesh/parley/state"
)

// issuerGrace is how long after the eviction of a core member its certificates still count, for agents to get others: they
// do so within ten seconds. Nobody gains by it, because an agent's certificate carries the signature of its host as well.
const issuerGrace = 20 * time.Second

// issuerDenied says whether an intermediate of a core member counts no more.
func (a *Agent) issuerDenied(node string, issued time.Time) bool {
	return a.deniedSince(node, issued, a.now().Add(-issuerGrace))
}

// issuerEnds says whether the issuer of this agent's own certificate is denied, or about to be.
func (a *Agent) issuerEnds() bool {
	node, issued := a.source.IssuedBy()
	return a.deniedSince(node, issued, a.now())
}

// deniedSince reports whether a node was evicted, at or before a time, with an issuer that is no newer than that.
func (a *Agent) deniedSince(node string, issued, by time.Time) bool {
	v := a.hub.View()
	if at, told := a.denials.issuer(v, node); told && !issued.After(at) && !by.Before(at) {
		return true
	}
	if v.Rows(state.TableDenial) == 0 {
		return false // nearly always
	}
	return slices.ContainsFunc(a.evicted.of(v, node), func(at time.Time) bool { return !issued.After(at) && !by.Before(at) })
}

// evictedIssuers are the times at which core members were evicted, by node. Each handshake asks, and there may be thousands of evictions,
// so their rows are read once for each change of their table. Safe for concurrent use.
type evictedIssuers struct{ last atomic.Pointer[issuersOf] }

type issuersOf struct {
	revision uint64
	at       map[string][]time.Time // never changed
}

// of returns when a node was evicted with its issuer, which is more than once where its name was given again.
func (e *evictedIssuers) of(v *state.View, node string) []time.Time {
	revision := v.TableRevision(state.TableDenial)
	known := e.last.Load()
	if known == nil || known.revision != revision {
		known = &issuersOf{revision: revision, at: make(map[string][]time.Time)}
		for _, d := range v.Denials() {
			if d.Issuer {
				known.at[d.Node] = append(known.at[d.Node], d.At.Wall())
			}
		}
		e.last.Store(known)
	}
	return known.at[node]
}
