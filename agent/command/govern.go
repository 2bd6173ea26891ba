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
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "size N",
		Short: "Set how many voters the core should have",
		Long: "N is 1, 3, 5 or 7. A smaller core asks first: those that leave it delete their logs. With --dry-run it only says\n" +
			"what would happen.",
		Args: takes("N"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil {
				return usageError("like parley core size 5", "%q is not a number of voters", args[0])
			}
			if done, err := a.guardSize(cmd, n, yes, dryRun); done || err != nil {
				return err
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				err := c.SetCoreSize(ctx, n)
				return answer{value: map[string]any{"size": n}, table: func(w io.Writer) {
					row(w, fmt.Sprintf("the core is to have %d voters; parley core shows how far it is", n))
				}}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would happen")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask before the core becomes smaller")
	return cmd
}

// guardSize shows what a smaller core costs and wants that confirmed. done means that a dry run was all that was wanted.
func (a *app) guardSize(cmd *cobra.Command, n int, yes, dryRun bool) (done bool, err error) {
	if yes && !dryRun {
		return false, nil
	}
	c, err := a.connect(cmd)
	if err != nil {
		return false, err
	}
	defer c.Close()
	core, err := c.Core(cmd.Context())
	if err != nil {
		return false, err
	}
	radius := fmt.Sprintf("the core has %s and is to have %d", plural(len(core.Voters), "voter"), n)
	if n < len(core.Voters) {
		radius += fmt.Sprintf(": %d of them leave it and delete their logs, and it survives %s instead of %d",
			len(core.Voters)-n, plural((n-1)/2, "failure"), (len(core.Voters)-1)/2)
	}
	switch {
	case dryRun:
		value := map[string]any{"size": n, "dry_run": true}
		return true, a.say(cmd, answer{value: value, table: func(w io.Writer) { row(w, radius) }})
	case n >= len(core.Voters):
		return false, nil
	}
	return false, a.confirm(cmd.Context(), c, yes, radius)
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
