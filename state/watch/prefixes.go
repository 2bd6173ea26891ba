package watch

import "strings"

// prefixTree finds all prefixes of a key that somebody watches: a radix tree, in which each node stands for the bytes on
// the way to it. A node without subscriptions has at least two children, but for the root, so there are fewer than twice
// as many nodes as prefixes. The way of a key ends at the first byte that no prefix shares: what touches nobody costs a
// few comparisons, however many prefixes there are and whatever their lengths.
type prefixTree struct {
	root prefixNode
}

// prefixNode has its children in the order of their first bytes, which differ. A slice: most have one or two, and those
// with many, such as digits, have at most 256.
type prefixNode struct {
	label string // the bytes between the parent and this node; never empty below the root
	kids  []*prefixNode
	subs  *Subscription // the first of those who watch this prefix
}

// find is where a child that begins with b is or belongs.
func (n *prefixNode) find(b byte) (i int, there bool) {
	lo, hi := 0, len(n.kids)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1) //nolint:gosec // below 256
		if n.kids[mid].label[0] < b {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(n.kids) && n.kids[lo].label[0] == b
}

// along calls f for the subscriptions of each prefix of key.
func (t *prefixTree) along(key string, f func(*Subscription)) {
	n := &t.root
	for {
		if n.subs != nil {
			f(n.subs)
		}
		if key == "" {
			return
		}
		i, there := n.find(key[0])
		if !there || !strings.HasPrefix(key, n.kids[i].label) {
			return
		}
		n = n.kids[i]
		key = key[len(n.label):]
	}
}

// each calls f for the subscriptions of every prefix.
func (t *prefixTree) each(f func(*Subscription)) { t.root.each(f) }

func (n *prefixNode) each(f func(*Subscription)) {
	if n.subs != nil {
		f(n.subs)
	}
	for _, kid := range n.kids {
		kid.each(f)
	}
}

// grow returns the node of a prefix, which it makes if there is none.
func (t *prefixTree) grow(prefix string) *prefixNode {
	n := &t.root
	for prefix != "" {
		i, there := n.find(prefix[0])
		if !there {
			kid := &prefixNode{label: strings.Clone(prefix)} // not the whole key that the rest is a part of
			n.kids = append(n.kids, nil)
			copy(n.kids[i+1:], n.kids[i:])
			n.kids[i] = kid
			return kid
		}
		kid := n.kids[i]
		same := shared(kid.label, prefix)
		if same < len(kid.label) {
			upper := &prefixNode{label: kid.label[:same], kids: []*prefixNode{kid}}
			kid.label = kid.label[same:]
			n.kids[i] = upper
			kid = upper
		}
		n, prefix = kid, prefix[same:]
	}
	return n
}

func shared(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// prune removes the node of a prefix that nobody watches any more, and joins what that leaves with one child alone.
func (t *prefixTree) prune(prefix string) {
	var above, n *prefixNode = nil, &t.root
	for prefix != "" {
		i, there := n.find(prefix[0])
		if !there {
			return
		}
		above, n = n, n.kids[i]
		prefix = prefix[len(n.label):]
	}
	if n.subs != nil || above == nil {
		return
	}
	if len(n.kids) == 0 {
		i, _ := above.find(n.label[0])
		above.kids = append(above.kids[:i], above.kids[i+1:]...)
		above.join(above == &t.root)
		return
	}
	n.join(false)
}

// join makes one node of this one and its only child, unless it is needed itself.
func (n *prefixNode) join(root bool) {
	if root || n.subs != nil || len(n.kids) != 1 {
		return
	}
	kid := n.kids[0]
	n.label, n.kids, n.subs = n.label+kid.label, kid.kids, kid.subs
}
