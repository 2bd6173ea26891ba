package command

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) eventsCommand() *cobra.Command {
	var o client.EventOptions
	cmd := &cobra.Command{
		Use:   "events",
		Short: "What happened in the cluster, in the same order on every agent",
		Long: "The timeline has the order of the log, so causes come before their effects whatever the clocks of the\n" +
			"hosts say. It is on every agent, and readable without a leader. Events of this agent that could not be\n" +
			"written yet stand at the end, pending.",
		Example: "  parley events --since 10m\n  parley events --kind leader-elected -o json",
		Args:    noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Since < 0 || o.Limit < 0 {
				return usageError("like --since 10m --limit 50", "--since and --limit cannot be negative")
			}
			return a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				events, err := c.Events(ctx, o)
				return answer{value: list(events), table: func(w io.Writer) { eventTable(w, events) }}, err
			})(cmd, nil)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&o.Since, "since", 0, "only the last so long, back from the newest entry of the log")
	flags.IntVar(&o.Limit, "limit", 0, "only so many of the newest")
	flags.StringVar(&o.Kind, "kind", "", "only this kind, such as agent-started, member-dead or note")
	cmd.AddCommand(a.eventsAddCommand())
	return cmd
}

func eventTable(w io.Writer, events []client.TimelineEvent) {
	row(w, "TIME", "AGENT", "KIND", "SUBJECT", "MESSAGE")
	for _, e := range events {
		at := e.Time.UTC().Format("2006-01-02 15:04:05.000Z")
		if e.Pending {
			at = "pending"
		}
		row(w, at, e.Node, e.Kind, e.Subject, e.Message)
	}
}

func (a *app) eventsAddCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "add MESSAGE",
		Short:   "Write a note into the timeline",
		Example: "  parley events add 'moving rack 4 to the other switch'",
		Args:    takes("MESSAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				added, err := c.AddEvent(ctx, args[0])
				return answer{value: added, table: func(w io.Writer) {
					row(w, "noted at "+added.Time.UTC().Format(time.RFC3339)+", "+added.HLC)
				}}, err
			})(cmd, nil)
		},
	}
}
