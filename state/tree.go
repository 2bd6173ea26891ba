package state

import (
	"strings"
	"sync/atomic"
)

// tree is a B-tree of records, ordered by table and key, of which a copy costs nothing: copies share nodes, and each copies
// a node before it first writes to it. So what a batch costs is the nodes on the way to what it changes, once each.
//
// A node belongs to the edition of the tree that made it, and only that one writes to it. A tree that was copied by edit must
// not be written any more: it may be read by anybody, for ever.
//
// A new record at the end of a full node splits it there, and not in the middle: tables that grow at their end, as requests,
// history and the timeline do, and states that are loaded in order, leave full nodes behind.
//
//	            [ . m . t . ]             a node has one child more than items, or none
//	           /     |      \
//	[ a . c . f ] [ n . p ] [ u . z ]
//
// The nodes are wide enough for few levels, and narrow enough that a copy is cheap: 31 was faster than 63 with small batches
// and no slower with large ones.
//
// A node that a put looked in has the heads of its keys beside each other (heads.go): a search reads these few lines of memory and not
// a record at each step. Copies share them. They last until an item comes or goes; a record that takes the place of one of
// the same key leaves them as they are.
//
// Two short cuts keep a put from descending more than once, and are forgotten as soon as a node is split or loses an item:
// the place of the record that find has found, which set takes if it is of the same key, and the leaves that ended a table
// when they were last written to. What belongs behind such a leaf's last record, and is of its table, belongs into it.
type tree struct {
	root    *node // nil for an empty tree
	edition uint64
	found   **record    // in a node of this edition
	ends    [ends]*node // leaves of this edition, by table
}

const (
	maxItems = 31
	minItems = 10           // below that a node is joined with one beside it
	endSplit = maxItems - 3 // from there on an item is at the end of a node
	ends     = 4            // ends of tables that are remembered, by the remainder: those of requests and of history differ
)

// node is a leaf, or has children: the first has what is before the first item, and so on.
type node struct {
	edition  uint64
	count    int
	heads    *heads // nil: none were made since an item came or went
	items    [maxItems]*record
	children *[maxItems + 1]*node
}

// editions numbers them. The numbers mean nothing else.
var editions atomic.Uint64

func newTree() tree { return tree{edition: editions.Add(1)} }

// edit returns a copy to be written.
func (t tree) edit() tree { return tree{root: t.root, edition: editions.Add(1)} }

// own returns the node, or a copy of it that this edition may write to.
func (t *tree) own(n *node) *node {
	if n.edition == t.edition {
		return n
	}
	c := *n
	c.edition = t.edition
	if n.children != nil {
		children := *n.children
		c.children = &children
	}
	return &c
}

// child returns a child of a node that is owned, to be written.
func (t *tree) child(n *node, i int) *node {
	c := t.own(n.children[i])
	n.children[i] = c
	return c
}

// search returns the place of the record, or where it belongs.
func (n *node) search(table Table, head uint64, key string) (place int, found bool) {
	if n.heads != nil {
		return n.searchHeads(table, key)
	}
	low, high := 0, n.count
	for low < high {
		mid := int(uint(low+high) >> 1)
		r := n.items[mid]
		var before bool
		switch {
		case table != r.table:
			before = table < r.table
		case head != r.head:
			before = head < r.head
		default:
			order := strings.Compare(key, r.key)
			if order == 0 {
				return mid, true
			}
			before = order < 0
		}
		if before {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low, false
}

func (t *tree) get(table Table, key string) (*record, bool) {
	head := headOf(key)
	for n := t.root; n != nil; {
		i, found := n.search(table, head, key)
		if found {
			return n.items[i], true
		}
		if n.children == nil {
			break
		}
		n = n.children[i]
	}
	return nil, false
}

// find is get of a record that is about to be replaced: a set of the same key that follows need not search again. It copies
// the nodes on the way, as that set would have.
func (t *tree) find(table Table, key string) (*record, bool) {
	if t.root == nil {
		return nil, false
	}
	head := headOf(key)
	t.root = t.own(t.root)
	for n := t.root; ; {
		i, found := n.search(table, head, key)
		if n.heads == nil && (found || n.children != nil) { // in a leaf that keys are added to they would not last
			n.heads = n.makeHeads()
		}
		if found {
			t.found = &n.items[i]
			return n.items[i], true
		}
		if n.children == nil {
			return nil, false
		}
		n = t.child(n, i)
	}
}

// forget gives up the short cuts, before places change.
func (t *tree) forget() { t.found, t.ends = nil, [ends]*node{} }

// replace is set where find was.
func (t *tree) replace(r *record) (old *record) {
	place := t.found
	if t.found = nil; place == nil || (*place).table != r.table || (*place).key != r.key {
		return nil
	}
	old, *place = *place, r
	return old
}

// append is set at the end of a table, if the leaf there is known and has room.
func (t *tree) append(r *record) bool {
	n := t.ends[r.table%ends]
	if n == nil || n.count == maxItems {
		return false
	}
	if last := n.items[n.count-1]; last.table != r.table || !recordLess(last, r) {
		return false
	}
	n.items[n.count] = r
	n.count++
	n.heads = nil
	return true
}

// set returns the record that r replaces, nil if there was none.
func (t *tree) set(r *record) (old *record) {
	if old = t.replace(r); old != nil || t.append(r) {
		return old
	}
	if t.root == nil {
		t.root = &node{edition: t.edition}
	}
	t.root = t.own(t.root)
	old, middle, right := t.insert(t.root, r, nil)
	t.grow(middle, right)
	return old
}

// load adds a record that is behind all others.
func (t *tree) load(r *record) {
	t.forget()
	if t.root == nil {
		t.root = &node{edition: t.edition}
	}
	t.root = t.own(t.root)
	t.grow(t.insertLast(t.root, r))
}

// grow puts a root above the old one, which was split, if it was.
func (t *tree) grow(middle *record, right *node) {
	if right == nil {
		return
	}
	root := &node{edition: t.edition, count: 1, children: new([maxItems + 1]*node)}
	root.items[0], root.children[0], root.children[1] = middle, t.root, right
	t.root = root
}

// insert returns what was replaced, or, if the node had to be split, what belongs behind it. next is the record behind the
// node, nil if there is none.
func (t *tree) insert(n *node, r, next *record) (old, middle *record, right *node) {
	i, found := n.search(r.table, r.head, r.key)
	if found {
		old, n.items[i] = n.items[i], r
		return old, nil, nil
	}
	if n.children == nil {
		switch middle, right = t.add(n, i, r, nil); {
		case right != nil:
			t.forget()
		case i == n.count-1:
			t.ends[r.table%ends] = nil // this leaf may have been the end of another table: its last record is of that one no more
			if next == nil || next.table != r.table {
				t.ends[r.table%ends] = n
			}
		}
		return nil, middle, right
	}
	if i < n.count {
		next = n.items[i]
	}
	if old, middle, right = t.insert(t.child(n, i), r, next); right != nil {
		middle, right = t.add(n, i, middle, right)
	}
	return old, middle, right
}

func (t *tree) insertLast(n *node, r *record) (middle *record, right *node) {
	if n.children == nil {
		return t.add(n, n.count, r, nil)
	}
	if middle, right = t.insertLast(t.child(n, n.count), r); right != nil {
		middle, right = t.add(n, n.count, middle, right)
	}
	return middle, right
}

// add puts an item and the child behind it into a node at place i. A full node is split.
func (t *tree) add(n *node, i int, r *record, behind *node) (middle *record, right *node) {
	if n.count < maxItems {
		n.put(i, r, behind)
		return nil, nil
	}
	at := maxItems / 2
	if i >= endSplit {
		at = min(i, maxItems-1)
	}
	right = &node{edition: t.edition}
	if i == at { // r itself is in the middle
		n.move(right, at, at+1)
		if behind != nil {
			right.children[0] = behind
		}
		return r, right
	}
	n.move(right, at+1, at+1)
	middle = n.takeLast()
	if i < at {
		n.put(i, r, behind)
	} else {
		right.put(i-at-1, r, behind)
	}
	return middle, right
}

// put makes room for an item and the child behind it, nil in a leaf.
func (n *node) put(i int, r *record, behind *node) {
	n.heads = nil
	copy(n.items[i+1:n.count+1], n.items[i:n.count])
	n.items[i] = r
	if behind != nil {
		copy(n.children[i+2:n.count+2], n.children[i+1:n.count+1])
		n.children[i+1] = behind
	}
	n.count++
}

// move moves the items from one on to an empty node, and the children from one on, to where they belong beside them.
func (n *node) move(right *node, item, child int) {
	n.heads = nil
	right.count = copy(right.items[:], n.items[item:n.count])
	clear(n.items[item:n.count])
	if n.children != nil {
		right.children = new([maxItems + 1]*node)
		copy(right.children[child-item:], n.children[child:n.count+1])
		clear(n.children[child : n.count+1])
	}
	n.count = item
}

// take removes an item and the child behind it.
func (n *node) take(i int) *record {
	n.heads = nil
	r := n.items[i]
	copy(n.items[i:], n.items[i+1:n.count])
	n.items[n.count-1] = nil
	if n.children != nil {
		copy(n.children[i+1:], n.children[i+2:n.count+1])
		n.children[n.count] = nil
	}
	n.count--
	return r
}

// takeLast removes the last item of a node that has no child behind it.
func (n *node) takeLast() *record {
	n.heads = nil
	n.count--
	r := n.items[n.count]
	n.items[n.count] = nil
	return r
}

// remove returns the record that it removed, nil if there was none.
func (t *tree) remove(table Table, key string) *record {
	old, found := t.get(table, key)
	if !found {
		return nil
	}
	t.drop(old)
	return old
}

// drop removes a record that is there.
func (t *tree) drop(old *record) {
	t.forget()
	t.root = t.own(t.root)
	t.cut(t.root, old)
	t.shrink()
}

// shrink takes away a root that holds nothing.
func (t *tree) shrink() {
	switch root := t.root; {
	case root.count > 0:
	case root.children == nil:
		t.root = nil
	default:
		t.root = root.children[0]
	}
}

// dropRun removes the first records at or behind that place, as many as gone has room for and are in one leaf, and puts them
// there. It returns how many.
func (t *tree) dropRun(table Table, key string, gone []*record) (n int) {
	if t.root == nil {
		return 0
	}
	t.forget()
	t.root = t.own(t.root)
	n = t.cutRun(t.root, table, key, gone)
	t.shrink()
	return n
}

func (t *tree) cutRun(n *node, table Table, key string, gone []*record) (cut int) {
	i, found := n.search(table, headOf(key), key)
	if n.children == nil {
		cut = copy(gone, n.items[i:n.count])
		kept := i + copy(n.items[i:], n.items[i+cut:n.count])
		clear(n.items[kept:n.count])
		n.count, n.heads = kept, nil
		return cut
	}
	if !found {
		if cut = t.cutRun(t.child(n, i), table, key, gone); cut > 0 {
			t.fill(n, i)
			return cut
		}
		if i == n.count {
			return 0
		}
	}
	gone[0] = n.items[i]
	n.heads = nil
	n.items[i] = t.cutLast(t.child(n, i))
	t.fill(n, i)
	return 1
}

// cut removes a record that is there. In the place of one that has children around it comes the one before it.
func (t *tree) cut(n *node, r *record) {
	i, found := n.search(r.table, r.head, r.key)
	switch {
	case n.children == nil:
		n.take(i)
		return
	case found:
		n.heads = nil
		n.items[i] = t.cutLast(t.child(n, i))
	default:
		t.cut(t.child(n, i), r)
	}
	t.fill(n, i)
}

func (t *tree) cutLast(n *node) *record {
	if n.children == nil {
		return n.takeLast()
	}
	i := n.count
	r := t.cutLast(t.child(n, i))
	t.fill(n, i)
	return r
}

// fill makes one node of a child that has become small and the one beside it, or two that are alike if that would be too
// large.
func (t *tree) fill(n *node, i int) {
	if n.children[i].count >= minItems || n.count == 0 {
		return
	}
	i = min(i, n.count-1)
	left, right := t.child(n, i), t.child(n, i+1)
	all := make([]*record, 0, 2*maxItems+1)
	all = append(append(append(all, left.items[:left.count]...), n.items[i]), right.items[:right.count]...)
	var children []*node
	if left.children != nil {
		children = make([]*node, 0, 2*maxItems+2)
		children = append(append(children, left.children[:left.count+1]...), right.children[:right.count+1]...)
	}
	if len(all) <= maxItems {
		left.refill(all, children)
		n.take(i)
		return
	}
	half := len(all) / 2
	n.heads = nil
	n.items[i] = all[half]
	if children == nil {
		left.refill(all[:half], nil)
		right.refill(all[half+1:], nil)
		return
	}
	left.refill(all[:half], children[:half+1])
	right.refill(all[half+1:], children[half+1:])
}

func (n *node) refill(items []*record, children []*node) {
	n.heads = nil
	clear(n.items[:])
	n.count = copy(n.items[:], items)
	if children != nil {
		clear(n.children[:])
		copy(n.children[:], children)
	}
}

// ascend calls f with the records from that place on, in order, until it returns false.
func (t *tree) ascend(table Table, key string, f func(*record) bool) {
	if t.root != nil {
		t.root.ascend(table, key, f)
	}
}

func (n *node) ascend(table Table, key string, f func(*record) bool) bool {
	i, found := n.search(table, headOf(key), key)
	if !found && n.children != nil && !n.children[i].ascend(table, key, f) {
		return false
	}
	return n.scan(i, f)
}

// scan calls f with the items from a place on, and with what is behind them.
func (n *node) scan(i int, f func(*record) bool) bool {
	for ; i < n.count; i++ {
		if !f(n.items[i]) {
			return false
		}
		if n.children != nil && !n.children[i+1].walk(f) {
			return false
		}
	}
	return true
}

// walk calls f with all records, in order, until it returns false.
func (n *node) walk(f func(*record) bool) bool {
	if n.children != nil && !n.children[0].walk(f) {
		return false
	}
	return n.scan(0, f)
}

func (t *tree) scan(f func(*record) bool) {
	if t.root != nil {
		t.root.walk(f)
	}
}
