package agent

import (
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
	for _, d := range v.Denials() {
		if at := d.At.Wall(); d.Issuer && d.Node == node && !issued.After(at) && !by.Before(at) {
			return true
		}
	}
	return false
}
