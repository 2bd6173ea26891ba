package membership

import "sync"

// maxKnown bounds the members whose incarnation is tracked. Every one has a binding, so only a
// cluster larger than that reaches it; further nodes are then refused.
const maxKnown = 16384

// known is the newest that we accepted about a node.
type known struct {
	record
	meta        []byte
	incarnation uint32 // highest accepted under this record's epoch and host
}

// knowledge is our own table of incarnations, fed only by what the firewall accepted: memberlist
// does not show its own. Safe for concurrent use.
type knowledge struct {
	mu struct {
		sync.Mutex
		nodes map[string]known
	}
}

func newKnowledge() *knowledge {
	k := &knowledge{}
	k.mu.nodes = make(map[string]known)
	return k
}

func (k *knowledge) get(node string) (known, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, ok := k.mu.nodes[node]
	return n, ok
}

// current reports whether r is not older than what was accepted before.
func (k *knowledge) current(r record) bool {
	n, ok := k.get(r.Name)
	return !ok || !r.older(n.record)
}

// accept takes in a verified record at an incarnation. It refuses an older record, and, unless the
// node speaks for itself, an incarnation above what the record vouches for. A new epoch and another
// host start the incarnations over: what was accepted of an earlier life must not count against
// this one. bound is asked under the lock which of two hosts has the name: r may have been verified
// just before the name went to the other.
func (k *knowledge) accept(r record, meta []byte, incarnation uint32, itself bool, bound func(record) bool) bool {
	if !itself && uint64(incarnation) > r.ceiling() {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n, ok := k.mu.nodes[r.Name]
	switch {
	case !ok && len(k.mu.nodes) >= maxKnown, ok && r.older(n.record):
		return false
	case ok && r.Binding != n.Binding && !bound(r):
		return false
	case ok && r.Epoch == n.Epoch && r.Binding == n.Binding:
		incarnation = max(incarnation, n.incarnation)
	}
	k.mu.nodes[r.Name] = known{record: r, meta: append([]byte(nil), meta...), incarnation: incarnation}
	return true
}

func (k *knowledge) forget(node string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.mu.nodes, node)
}
