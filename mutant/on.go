//go:build mutants

package mutant

import "sync/atomic"

// Planted reports whether mistakes can be planted in this binary.
const Planted = true

var planted atomic.Pointer[Name]

// Plant makes name the one mistake that is on; "" heals. Tests only; not beside a running node.
func Plant(name Name) { planted.Store(&name) }

// On reports whether the mistake is planted.
func On(name Name) bool {
	p := planted.Load()
	return p != nil && *p == name
}
