package agent

import (
	"context"
	"fmt"
	"testing"
)

// A node's row follows the agent to another address and another zone; neither is for the first start alone. A start
// without a zone keeps the one it has.
func TestPlaceIsKept(t *testing.T) {
	cfg := single(t)
	for _, move := range []struct{ zone, want string }{{"", ""}, {"east", "east"}, {"", "east"}, {"west", "west"}} {
		t.Run("zone "+move.zone, func(t *testing.T) {
			cfg.Mesh.Bind, cfg.Zone = freeAddr(t), move.zone
			a1 := start(t, cfg, 0)
			within(t, "the row has address and zone", func(context.Context) error {
				row, _ := a1.agent.hub.View().Node("a1")
				if row.Address != cfg.Mesh.Bind || row.Zone != move.want {
					return fmt.Errorf("at %q in zone %q, want %q and %q", row.Address, row.Zone, cfg.Mesh.Bind, move.want)
				}
				return nil
			})
		})
	}
}
