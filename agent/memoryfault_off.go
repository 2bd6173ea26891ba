//go:build !memoryfault

package agent

// plantMemoryFault does something in binaries made for tests only.
func (c *coreRunner) plantMemoryFault(*replica) {}
