package command

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "What this agent is and whether it is ready",
		Example: "  parley status --wait 1m --expect '.ready and .core.leader != null'",
		Args:    takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			s, err := c.Status(ctx)
			return answer{value: s, table: func(w io.Writer) { statusTable(w, s) }}, err
		}),
	}
}

func statusTable(w io.Writer, s client.Status) {
	fields(w, "name", s.Name, "ready", yesNo(s.Ready), "safe mode", s.SafeMode,
		"cluster", s.ClusterID, "trust domain", s.TrustDomain, "version", s.Version)
	coreTable(w, s.Core)
	fields(w, "identity", s.SVID.SPIFFEID, "valid until", instant(s.SVID.NotAfter))
}

func (a *app) membersCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "members",
		Short:   "The agents of the cluster as this one sees them",
		Example: "  parley members -o json --expect 'all(.[]; .state == \"alive\")'",
		Args:    takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			members, err := c.Members(ctx)
			return answer{value: list(members), table: func(w io.Writer) {
				row(w, "NAME", "STATE", "CORE", "ZONE", "ADDRESS", "IDENTITY")
				for _, m := range members {
					row(w, m.Name, stateOf(m), m.Core, m.Zone, m.Address, m.SPIFFEID)
				}
			}}, err
		}),
	}
}

func stateOf(m client.Member) string {
	if m.Copied {
		return m.State + " (copied)"
	}
	return m.State
}

func (a *app) coreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "core",
		Short: "The Raft core: leader, voters, and how many of them may fail",
		Args:  noSuchCommand,
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			core, err := c.Core(ctx)
			return answer{value: core, table: func(w io.Writer) { coreTable(w, core) }}, err
		}),
	}
	cmd.AddCommand(a.coreAllowCommand(), a.coreSizeCommand(), a.coreHoldCommand())
	return cmd
}

func coreTable(w io.Writer, core client.CoreStatus) {
	leader := "none: no writes until a majority of the voters reach each other"
	if core.Leader != nil {
		leader = *core.Leader
	}
	margin, healthy := fmt.Sprintf("%d of %d voters may fail", core.Margin, len(core.Voters)), 0
	for _, v := range core.Voters {
		if v.Healthy {
			healthy++
		}
	}
	switch {
	case len(core.Voters) == 0:
		margin = "not known"
	case core.Margin >= 0:
	case 2*healthy > len(core.Voters):
		margin = fmt.Sprintf("none: %d of %d voters are healthy, and none leads", healthy, len(core.Voters))
	default:
		margin = fmt.Sprintf("no majority of the %d voters is healthy", len(core.Voters))
	}
	fields(w, "leader", leader, "term", core.Term, "commit index", core.CommitIndex, "applied index", core.AppliedIndex,
		"voters", coreNames(core.Voters), "learners", coreNames(core.Learners),
		"margin", margin, "writes", writesOf(core), "wanted voters", strconv.Itoa(core.Size))
	if core.Reads != "" {
		fields(w, "reads by", core.Reads)
	}
	if len(core.Held) > 0 {
		fields(w, "in maintenance", heldNames(core.Held))
	}
}

func heldNames(held []client.Hold) string {
	var names []string
	for _, h := range held {
		names = append(names, h.Name+" (until "+instant(h.Until)+")")
	}
	return strings.Join(names, ", ")
}

func writesOf(core client.CoreStatus) string {
	switch {
	case core.ReadOnly:
		return "refused: the members hold different states and none has a majority; see parley digest compare"
	case core.Leader == nil:
		return "wait for a leader"
	}
	return "taken"
}

func coreNames(members []client.CoreMember) string {
	var names []string
	for _, m := range members {
		name := m.Name + " (id " + m.RaftID
		if !m.Healthy {
			name += ", unhealthy"
		}
		names = append(names, name+")")
	}
	return orDash(strings.Join(names, ", "))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// list is rows as JSON: [] rather than null when there are none.
func list[T any](rows []T) []T {
	if rows == nil {
		return []T{}
	}
	return rows
}
