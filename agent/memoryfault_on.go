//go:build memoryfault

package agent

import (
	"fmt"
	"os"
	"slices"

	"github.com/parley-mesh/parley/state"
)

// memoryFaultFile, in the data directory of a binary with the build tag "memoryfault", asks for one fault of the memory or
// the processor at the next entry that is applied, and is removed by it:
//
//	flip KEY BITS        the first byte of the value that is held for KEY changes under its row
//	compute KEY BITS N   the next N puts of KEY, a replay of the log included, are computed with another first byte
const memoryFaultFile = "memoryfault"

func (c *coreRunner) plantMemoryFault(r *replica) {
	path := c.dir.join(memoryFaultFile)
	spoil := func(commands [][]byte) [][]byte {
		var what, key string
		var bits byte
		var times int
		order, err := os.ReadFile(path)
		if err != nil {
			return commands
		}
		if n, _ := fmt.Sscan(string(order), &what, &key, &bits, &times); n < 3 {
			return commands
		}
		if what == "flip" {
			if kv, ok := r.machine.View().Get(key); ok {
				kv.Value[0] ^= bits
				_ = os.Remove(path)
			}
			return commands
		}
		spoiled := miscompute(commands, key, bits)
		if spoiled == nil {
			return commands
		}
		if times > 1 {
			_ = os.WriteFile(path, fmt.Appendf(nil, "%s %s %d %d", what, key, bits, times-1), 0o600)
		} else {
			_ = os.Remove(path)
		}
		return spoiled
	}
	c.spoil.Store(&spoil)
}

// miscompute changes the first byte of what is put under a key, nil if nothing is.
func miscompute(commands [][]byte, key string, bits byte) [][]byte {
	for i, command := range commands {
		e, err := state.Decode(command)
		put, ok := e.Command.(state.Put)
		if err != nil || !ok || put.Key != key || len(put.Value) == 0 {
			continue
		}
		put.Value = slices.Clone(put.Value)
		put.Value[0] ^= bits
		e.Command = put
		wrong, err := state.Encode(e, state.Version)
		if err != nil {
			continue
		}
		out := slices.Clone(commands)
		out[i] = wrong
		return out
	}
	return nil
}
