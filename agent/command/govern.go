package command

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) coreAllowCommand() *cobra.Command {
	var revoke bool
	cmd := &cobra.Command{
		Use:   "allow NODE",
		Short: "Allow an agent into the core, or with --revoke no longer",
		Long: "An agent that may be in the core has the role operator, which ends with the permission. A member of the core\n" +
			"whose permission ends stays in until another agent that is allowed takes its place.",
		Args: takes("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				return allowCore(ctx, c, args[0], !revoke)
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&revoke, "revoke", false, "take the grant away; a member of the core is replaced")
	return cmd
}

// allowCore gives the grant or takes it away, and tells what goes with it: the role, and that a member stays in until it
// can be replaced.
func allowCore(ctx context.Context, c *client.Client, node string, allow bool) (answer, error) {
	if err := c.AllowCore(ctx, node, allow); err != nil {
		return answer{}, err
	}
	value := map[string]any{"node": node, "allow": allow}
	if allow {
		value["role"] = "operator"
		return answer{value: value, table: func(w io.Writer) {
			row(w, node+" may now be in the core, and has the role operator for as long as it may")
		}}, nil
	}
	core, err := c.Core(ctx)
	stays := err == nil && isMember(core, node) // not knowing takes nothing from what was done
	value["stays"] = stays
	return answer{value: value, table: func(w io.Writer) {
		row(w, node+" may no longer be in the core")
		if stays {
			row(w, "It stays in it until another agent that may be in the core takes its place; if there is none: parley core allow NODE")
		}
	}}, nil
}

func isMember(core client.CoreStatus, node string) bool {
	return slices.ContainsFunc(slices.Concat(core.Voters, core.Learners), func(m client.CoreMember) bool { return m.Name == node })
}

func (a *app) coreSizeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "size N",
		Short: "Set how many voters the core should have",
		Args:  takes("N"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil {
				return usageError("like parley core size 5", "%q is not a number of voters", args[0])
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				err := c.SetCoreSize(ctx, n)
				return answer{value: map[string]any{"size": n}, table: func(w io.Writer) {
					row(w, fmt.Sprintf("the core is to have %d voters; parley core shows how far it is", n))
				}}, err
			})(cmd, nil)
		},
	}
}

func (a *app) agentRoleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "role NODE ROLE",
		Short: "Set what an agent may do through the cluster: none, discovery, local or operator",
		Args:  takes("NODE", "ROLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				err := c.SetAgentRole(ctx, args[0], args[1])
				return answer{value: map[string]any{"node": args[0], "role": args[1]}, table: func(w io.Writer) {
					row(w, args[0]+" has the role "+args[1])
				}}, err
			})(cmd, nil)
		},
	}
}
