package command

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) evictCommand() *cobra.Command {
	var yes, dryRun bool
	var reason string
	cmd := &cobra.Command{
		Use:   "evict NODE",
		Short: "Shut a host out for good: its identity, its host key, its connections",
		Long: "No agent that has heard of it accepts the host any more, and each closes what is open within a second. An agent that\n" +
			"is cut off from the core hears of it by gossip from any that has. The host key is denied for good; the name may be given to another\n" +
			"host (parley token create --replace). A host that is or was in the core has been able to open the root: its issuer\n" +
			"is denied as well, certificates that it signed are replaced, and the root is, as by parley ca rotate --compromised.\n" +
			"Where the core would have no quorum without it, evict is refused with exit 4. There is no undo.",
		Example: "  parley evict a7 --dry-run\n  parley evict a7 --reason 'laptop stolen'",
		Args:    takes("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), answerLimit)
			would, err := c.Evict(ctx, args[0], reason, true)
			cancel()
			if err != nil {
				return err
			}
			radius := evictRadius(would)
			if dryRun {
				value := map[string]any{"node": would.Node, "core": would.Core, "root_replaced": would.RootReplaced, "evicted": false, "dry_run": true}
				return a.say(cmd, answer{value: value, table: func(w io.Writer) { row(w, radius) }})
			}
			if err := a.confirm(cmd.Context(), c, yes, radius); err != nil {
				return err
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				done, err := c.Evict(ctx, args[0], reason, false)
				return answer{value: done, table: func(w io.Writer) {
					row(w, done.Node+" is evicted")
					if done.RootReplaced {
						row(w, "the root is being replaced: see parley ca status")
					}
				}}, err
			})(cmd, nil)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&reason, "reason", "", "why, for whoever asks later")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	flags.BoolVar(&dryRun, "dry-run", false, "only say what would happen")
	return cmd
}

func evictRadius(e client.Eviction) string {
	text := e.Node + " loses its identity, its host key is denied for good, and its connections are closed within a second; there is no undo"
	if e.RootReplaced {
		text += "\n  it is or was in the core (now: " + e.Core + "): its issuer is denied, and the root is replaced within ten minutes"
	}
	return text
}
