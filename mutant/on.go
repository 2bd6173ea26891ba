//go:build mutants

package mutant

import (
	"os"
	"sync/atomic"
)

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

// environment names the mistake that a program has from its start on, for tests of real processes.
const environment = "PLANTED_MUTANT"

func init() {
	if name := os.Getenv(environment); name != "" {
		Plant(Name(name))
	}
}
