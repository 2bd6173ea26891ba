package command

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) agentTrustCommand() *cobra.Command {
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "trust NODE",
		Short: "Take a host back that was seen twice, or that went back to an older copy of its files",
		Long: "A host whose certificate is asked for by two copies of its files, or by an older one, is not renewed until somebody\n" +
			"decides: parley members shows it as copied. Stop and remove every copy but the right one first. Whichever asks\n" +
			"first within an hour is taken for the right one, and the others are found out again. Where it is not certain who\n" +
			"has a copy, give the host another key instead (parley token create --replace NODE), or shut it out (parley evict).",
		Example: "  parley agent trust a7 --dry-run\n  parley agent trust a7",
		Args:    takes("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), answerLimit)
			members, err := c.Members(ctx)
			cancel()
			if err != nil {
				return err
			}
			radius := trustRadius(args[0], members)
			if dryRun {
				value := map[string]any{"node": args[0], "trusted": false, "dry_run": true}
				return a.say(cmd, answer{value: value, table: func(w io.Writer) { row(w, radius) }})
			}
			if err := a.confirm(cmd.Context(), c, yes, radius); err != nil {
				return err
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				err := c.TrustAgent(ctx, args[0])
				return answer{value: map[string]any{"node": args[0], "trusted": true}, table: func(w io.Writer) {
					row(w, args[0]+" is trusted: the copy of it that asks first, within an hour, is renewed again")
				}}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would happen")
	return cmd
}

func trustRadius(node string, members []client.Member) string {
	is := "has not been seen twice, as far as this agent knows"
	for _, m := range members {
		if m.Name == node && m.Copied {
			is = "was seen twice, or went back to an older copy of its files"
		}
	}
	return fmt.Sprintf("%s %s; whichever copy of it asks first within an hour is renewed again, so no other one may run", node, is)
}
