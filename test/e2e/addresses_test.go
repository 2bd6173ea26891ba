package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// moveTo gives an agent another mesh port and other arguments for its next start.
func moveTo(a *lab.Agent, port uint16, more ...string) {
	at := netip.MustParseAddrPort(a.Mesh)
	a.Mesh = netip.AddrPortFrom(at.Addr(), port).String()
	argv := slices.Clone(a.Argv)
	for i, arg := range argv {
		if arg == "--bind" {
			argv[i+1] = a.Mesh
		}
	}
	a.Argv = append(argv, more...)
}

// together: all see each other alive at their addresses, agree on a leader, and take writes.
func together(t *testing.T, l *lab.Lab, clients map[string]*client.Client, key string) {
	t.Helper()
	eventually(t, 60*time.Second, "all are together again", func(ctx context.Context) error {
		return errors.Join(allAlive(ctx, clients), atTheirAddresses(ctx, l, clients))
	})
	for name, c := range clients {
		eventually(t, 20*time.Second, "a write through "+name, func(ctx context.Context) error {
			_, err := c.Put(ctx, key+"/"+name, []byte("v"), client.PutOptions{})
			return err
		})
	}
}

func atTheirAddresses(ctx context.Context, l *lab.Lab, clients map[string]*client.Client) error {
	for name, c := range clients {
		members, err := c.Members(ctx)
		if err != nil {
			return err
		}
		for i, m := range members {
			if i < len(l.Agents) && m.Address != l.Agents[i].Mesh {
				return fmt.Errorf("%s has %s at %s, not %s", name, m.Name, m.Address, l.Agents[i].Mesh)
			}
		}
	}
	return nil
}

// TestAddressesChange: agents whose addresses change find each other again. Restarted one after the other, each
// remembers where the others went; all restarted at once, they go by the configured addresses, which are used by
// an agent that has joined as well.
func TestAddressesChange(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 3})
	clients := clientsOf(t, l)
	whole(t, clients)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()

	for _, a := range l.Agents {
		moveTo(a, 8311)
		restart(t, l, a.Name)
		hold(4 * time.Second) // as long as it takes to look at the next host
	}
	together(t, l, clients, "one-by-one")
	eventually(t, 20*time.Second, "every agent has the new addresses on disk", func(context.Context) error {
		return remembered(l)
	})

	var all []string
	for _, a := range l.Agents {
		kill(t, l, a.Name)
		moveTo(a, 8312)
		all = append(all, a.Mesh)
	}
	for _, a := range l.Agents {
		a.Argv = append(a.Argv, "--join", strings.Join(all, ","))
		if err := l.Restart(ctx, a.Name); err != nil {
			t.Fatal(err)
		}
	}
	together(t, l, clients, "all-at-once")

	// The zone is the agent's own to change as well.
	moved := l.Agents[2]
	moved.Argv = append(moved.Argv, "--zone", "elsewhere")
	restart(t, l, moved.Name)
	eventually(t, 30*time.Second, "the new zone, everywhere", func(ctx context.Context) error {
		for name, c := range clients {
			members, err := c.Members(ctx)
			if err != nil {
				return err
			}
			for _, m := range members {
				if m.Name == moved.Name && m.Zone != "elsewhere" {
					return fmt.Errorf("%s has %s in zone %q", name, m.Name, m.Zone)
				}
			}
		}
		return nil
	})
}

// remembered looks into the members.json of each agent.
func remembered(l *lab.Lab) error {
	for _, a := range l.Agents {
		raw, err := os.ReadFile(filepath.Join(a.DataDir, "view", "members.json"))
		if err != nil {
			return err
		}
		var known []struct{ Node, Addr string }
		if err := json.Unmarshal(raw, &known); err != nil {
			return err
		}
		for _, other := range l.Agents {
			want := struct{ Node, Addr string }{other.Name, other.Mesh}
			if other != a && !slices.Contains(known, want) {
				return fmt.Errorf("%s remembers %v", a.Name, known)
			}
		}
	}
	return nil
}
