package command

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) netCommand() *cobra.Command {
	cmd := group("net", "How the agents reach each other")
	cmd.AddCommand(&cobra.Command{
		Use:   "matrix",
		Short: "Every link between live agents, by gossip (UDP) and by calls (TCP)",
		Long: "Each row is an agent, and says how it reaches the others: ok; fallback, when UDP does not get through\n" +
			"and gossip goes by TCP; down, when no call gets through; or unknown. An agent that is dead has no links.\n" +
			"\"core via X\" means that what the two members of the core say to each other is passed on by X.",
		Example: "  parley net matrix --wait 2m --expect '.unreachable==0 and .udp_fallback==0'",
		Args:    takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			matrix, err := c.NetMatrix(ctx)
			return answer{value: matrix, table: func(w io.Writer) { matrixTable(w, matrix) }}, err
		}),
	})
	return cmd
}

func matrixTable(w io.Writer, m client.LinkMatrix) {
	links := make(map[[2]string]client.Link, len(m.Links))
	for _, l := range m.Links {
		links[[2]string{l.From, l.To}] = l
	}
	row(w, append([]string{"FROM / TO"}, m.Agents...)...)
	for _, from := range m.Agents {
		cells := []string{from}
		for _, to := range m.Agents {
			l, measured := links[[2]string{from, to}]
			cell := ""
			switch {
			case !measured:
			case l.TCP == "ok":
				cell = fmt.Sprintf("udp %s, %.1f ms", l.UDP, l.RTT)
			default:
				cell = "udp " + l.UDP + ", tcp " + l.TCP
			}
			if l.Via != "" {
				cell += ", core via " + l.Via
			}
			cells = append(cells, cell)
		}
		row(w, cells...)
	}
	row(w, fmt.Sprintf("\nunreachable %d, by TCP for want of UDP %d, one way only %d, unknown %d, relayed %d",
		m.Unreachable, m.UDPFallback, m.Asymmetric, m.Unknown, m.Relayed))
}

func (a *app) nodeCommand() *cobra.Command {
	cmd := group("node", "One agent as the others see it")
	cmd.AddCommand(&cobra.Command{
		Use:   "status NAME",
		Short: "Whether an agent is alive and how often it started, also when it cannot speak for itself",
		Long: "The agent that is asked tells what gossip shows of the other one. The count of starts is of what it has\n" +
			"seen in the last ten minutes; about itself it goes by its own ledger.",
		Example: "  parley node status web-1 --expect '.starts_10m < 3'",
		Args:    takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				n, err := c.Node(ctx, args[0])
				return answer{value: n, table: func(w io.Writer) {
					fields(w, "name", n.Name, "state", n.State, "reachable", yesNo(n.Reachable), "core", n.Core,
						"starts in all", n.Incarnation, "starts in 10 minutes", n.Starts10m, "of them after a crash", n.CrashStarts10m, "safe mode", n.SafeMode,
						"address", n.Address, "zone", orDash(n.Zone), "version", orDash(n.Version))
				}}, err
			})(cmd, nil)
		},
	})
	return cmd
}
