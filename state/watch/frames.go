package watch

import (
	"sync"

	"github.com/parley-mesh/parley/state"
)

const (
	// cachedSteps is how many steps' frames are kept. Followers that keep up make the same step at nearly the same time.
	cachedSteps = 8
	// maxCachedStep bounds the bytes of one, so that all of them cost little.
	maxCachedStep = 256 << 10
)

// A step is what a follower of some classes is brought from and to.
type step struct {
	place   place // from
	to      state.Position
	classes state.ClassSet
}

// frameCache shares the encoded frames of a step among the followers that make it: encoding costs more than all else that
// the hub does for one. The bytes are never changed.
type frameCache struct {
	mu struct {
		sync.Mutex // held for copying a few words only
		recent     [cachedSteps]cachedStep
		next       int
	}
}

type cachedStep struct {
	step
	changes int // that the frames carry
	frames  [][]byte
}

func (c *frameCache) get(s step) (cachedStep, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.mu.recent {
		if r := &c.mu.recent[i]; r.step == s && r.frames != nil {
			return *r, true
		}
	}
	return cachedStep{}, false
}

func (c *frameCache) put(s cachedStep) {
	size := 0
	for _, f := range s.frames {
		size += len(f)
	}
	if size > maxCachedStep {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.recent[c.mu.next] = s
	c.mu.next = (c.mu.next + 1) % cachedSteps
}
