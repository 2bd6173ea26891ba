package sim

import (
	"container/heap"
	"time"
)

// event is something that happens at a moment. Events of one moment happen in the order they were made.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) } //nolint:forcetypeassert // ours alone
func (h *eventHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return last
}

// timeline is virtual time and what is to happen in it.
type timeline struct {
	now    time.Duration
	seq    uint64
	events eventHeap
}

// after makes f happen d from now.
func (t *timeline) after(d time.Duration, f func()) {
	t.seq++
	heap.Push(&t.events, event{at: t.now + max(d, 0), seq: t.seq, do: f})
}

// step lets the next event happen. It reports whether there was one until end.
func (t *timeline) step(end time.Duration) bool {
	if len(t.events) == 0 || t.events[0].at > end {
		t.now = end
		return false
	}
	e := heap.Pop(&t.events).(event) //nolint:forcetypeassert // ours alone
	t.now = e.at
	e.do()
	return true
}
