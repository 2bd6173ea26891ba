package transport

import (
	"context"
	"sync"
	"time"
)

// callContext is the context of a call that is answered: its caller's deadline and priority. One of the standard library
// costs each call a timer and a place in the list of its parent, five pieces of memory in all; these are told of their end by
// their connection, which knows its calls anyway and needs one timer for all (see expiry). The zero one has no deadline.
type callContext struct {
	deadline time.Time // zero: none
	priority Priority

	mu struct {
		sync.Mutex // nothing is called under it
		err        error
		done       chan struct{} // made for the first who asks
		after      map[*afterEnd]struct{}
		giveUp     func(error) // called with the end too
	}
}

// afterEnd is called once, with the end of a context.
type afterEnd struct{ f func() }

var _ context.Context = (*callContext)(nil)

// ended is the Done of contexts that nobody asked before their end.
var ended = make(chan struct{})

func init() { close(ended) }

func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.done == nil {
		if c.mu.err != nil {
			return ended
		}
		c.mu.done = make(chan struct{})
	}
	return c.mu.done
}

func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.err
}

func (c *callContext) Value(key any) any {
	if _, asked := key.(priorityKey); asked {
		return c.priority
	}
	return nil
}

// AfterFunc has f called with the end; stop reports whether it kept f from that. Package context looks for this method, and
// starts no goroutine for a context made of this one. It calls it with the new context locked, which f locks too: so an end that
// came between its look at Done and this must be told by another goroutine.
func (c *callContext) AfterFunc(f func()) (stop func() bool) {
	a := &afterEnd{f}
	c.mu.Lock()
	over := c.mu.err != nil
	if !over {
		if c.mu.after == nil {
			c.mu.after = make(map[*afterEnd]struct{})
		}
		c.mu.after[a] = struct{}{}
	}
	c.mu.Unlock()
	if over {
		go f()
	}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, waits := c.mu.after[a]
		delete(c.mu.after, a)
		return waits
	}
}

// onEnd has giveUp called with the reason of the end, at once if that was before. There is one for a context.
func (c *callContext) onEnd(giveUp func(error)) {
	c.mu.Lock()
	err := c.mu.err
	c.mu.giveUp = giveUp
	c.mu.Unlock()
	if err != nil {
		giveUp(err)
	}
}

// end ends the context; the first reason counts.
func (c *callContext) end(why error) {
	c.mu.Lock()
	if c.mu.err != nil {
		c.mu.Unlock()
		return
	}
	c.mu.err = why
	if c.mu.done != nil {
		close(c.mu.done)
	}
	after, giveUp := c.mu.after, c.mu.giveUp
	c.mu.after, c.mu.giveUp = nil, nil
	c.mu.Unlock()
	if giveUp != nil {
		giveUp(why)
	}
	for a := range after {
		a.f()
	}
}
