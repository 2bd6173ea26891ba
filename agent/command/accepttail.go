package command

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

// tailRadius is what acceptTailCommand puts at stake.
const tailRadius = "if this agent has acknowledged more than its log holds, and the agents that are down hold it alone, those writes are lost"

func (a *app) acceptTailCommand() *cobra.Command {
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "accept-tail",
		Short: "Take the end of this agent's log as it is, when an unclean stop has left it in doubt",
		Long: "After an unclean stop the last record of the log may be damaged, and nothing on the disk says whether it was\n" +
			"acknowledged. Such an agent votes and counts only once it has heard every other voter. When one of them is down\n" +
			"for good, and the core has no leader without this agent, accept-tail ends the wait. Start the others instead if\n" +
			"you can: then nothing is lost.",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dryRun {
				return a.say(cmd, answer{value: map[string]any{"accepted": false, "dry_run": true}, table: func(w io.Writer) { row(w, tailRadius) }})
			}
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			err = a.confirm(cmd.Context(), c, yes, tailRadius)
			c.Close()
			if err != nil {
				return err
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				accepted, err := c.AcceptTail(ctx)
				return answer{value: map[string]any{"accepted": accepted}, table: func(w io.Writer) {
					if accepted {
						row(w, "this agent takes its log as it is, and takes part in the core")
					} else {
						row(w, "the log of this agent is not in doubt, nothing was changed")
					}
				}}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what is at stake")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
