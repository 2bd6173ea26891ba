package command

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) coreAllowCommand() *cobra.Command {
	var revoke bool
	cmd := &cobra.Command{
		Use:   "allow NODE",
		Short: "Allow an agent into the core, or with --revoke no longer",
		Args:  takes("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				err := c.AllowCore(ctx, args[0], !revoke)
				return answer{value: map[string]any{"node": args[0], "allow": !revoke}, table: func(w io.Writer) {
					verb := "may now"
					if revoke {
						verb = "may no longer"
					}
					row(w, args[0]+" "+verb+" be in the core")
				}}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&revoke, "revoke", false, "take the grant away; a member of the core is replaced")
	return cmd
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
