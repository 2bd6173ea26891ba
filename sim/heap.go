package sim

import "time"

// event is something that happens at a moment. Events of one moment happen in the order they were made. One of a host
// does not happen if the host has crashed since, and waits while it is paused.
type event struct {
	at   time.Duration
	seq  uint64
	do   func()
	host *host // nil: of nobody
	life uint64
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// eventHeap is a heap whose nodes have four children: it is half as deep as one with two, and a run pushes a hundred
// thousand events.
type eventHeap []event

func (h *eventHeap) push(e event) {
	*h = append(*h, e)
	list, i := *h, len(*h)-1
	for i > 0 {
		parent := (i - 1) / 4
		if !e.before(&list[parent]) {
			break
		}
		list[i] = list[parent]
		i = parent
	}
	list[i] = e
}

// pop takes the first event of a heap that is not empty.
func (h *eventHeap) pop() event {
	list := *h
	first, last := list[0], list[len(list)-1]
	list[len(list)-1] = event{}
	list = list[:len(list)-1]
	*h = list
	for i := 0; i < len(list); {
		child := 4*i + 1
		if child >= len(list) {
			list[i] = last
			break
		}
		for other := child + 1; other < min(4*i+5, len(list)); other++ {
			if list[other].before(&list[child]) {
				child = other
			}
		}
		if last.before(&list[child]) {
			list[i] = last
			break
		}
		list[i] = list[child]
		i = child
	}
	return first
}

// timeline is virtual time and what is to happen in it.
type timeline struct {
	now    time.Duration
	seq    uint64
	events eventHeap
}

// after makes f happen d from now.
func (t *timeline) after(d time.Duration, f func()) { t.schedule(d, event{do: f}) }

func (t *timeline) schedule(d time.Duration, e event) {
	t.seq++
	e.at, e.seq = t.now+max(d, 0), t.seq
	t.events.push(e)
}

// step lets the next event happen. It reports whether there was one until end.
func (t *timeline) step(end time.Duration) bool {
	if len(t.events) == 0 || t.events[0].at > end {
		t.now = end
		return false
	}
	e := t.events.pop()
	t.now = e.at
	if e.host != nil {
		e.host.happen(e.life, e.do)
	} else {
		e.do()
	}
	return true
}
