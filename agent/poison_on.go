//go:build poison

package agent

import (
	"os"
	"strings"

	"github.com/parley-mesh/parley/state"
)

// poison makes this agent crash when it applies a put of poison/KIND, or of poison/KIND@NAME on the agent NAME alone. It is
// in binaries for tests only.
func poison(node string) {
	state.Poison = func(c state.Command) {
		put, ok := c.(state.Put)
		if !ok {
			return
		}
		name, ok := strings.CutPrefix(put.Key, "poison/")
		kind, where, one := strings.Cut(name, "@")
		if !ok || one && where != node {
			return
		}
		switch kind {
		case "panic":
			panic("poison")
		case "stack":
			recurse(0)
		case "loop":
			for n := 0; ; n++ {
				spins = n
			}
		case "memory":
			for {
				b := make([]byte, 16<<20)
				for i := 0; i < len(b); i += 4096 {
					b[i] = 1
				}
				hoard = append(hoard, b)
			}
		}
	}
}

var (
	spins int
	hoard [][]byte
)

func recurse(n int) int { return recurse(n+1) + 1 }

// unguarded is the control of the tests.
func unguarded() bool { return os.Getenv("POISON_UNGUARDED") != "" }
