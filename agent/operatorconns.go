package agent

import "sync"

// What operators may have open on the mesh port of one agent, and again by https: a part of what the port takes, so that no
// operator keeps agents out, nor many together.
const (
	maxOperatorConns    = 64
	maxAllOperatorConns = 8192
)

// operatorConns counts the connections of operators on a port. The zero value is ready; safe for concurrent use.
type operatorConns struct {
	mu struct { // no call is made under it
		sync.Mutex
		open  map[string]int // by operator
		total int
	}
}

// enter takes a place, which leave gives back, or reports that there is none.
func (c *operatorConns) enter(operator string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.open[operator] >= maxOperatorConns || c.mu.total >= maxAllOperatorConns {
		return false
	}
	if c.mu.open == nil {
		c.mu.open = make(map[string]int)
	}
	c.mu.open[operator]++
	c.mu.total++
	return true
}

func (c *operatorConns) leave(operator string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.total--
	if c.mu.open[operator]--; c.mu.open[operator] == 0 {
		delete(c.mu.open, operator)
	}
}
