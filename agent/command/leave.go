package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

// leaveLimit is how long leave asks without --wait: a successor has to copy the state first.
const leaveLimit = 2 * time.Minute

func (a *app) leaveCommand() *cobra.Command {
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Have this agent leave the cluster for good, and stop",
		Long: "The agent's name is 'left' afterwards, and not dead; its services and its identity end. A voter of the core is\n" +
			"replaced by another agent that is allowed there, else the core becomes smaller by it. Where the others would\n" +
			"have no quorum without it, leave is refused with exit 4. Interrupted before the core has let it go, the agent\n" +
			"stays. A restart is not leave: for that just stop the agent, or hold it first (parley core hold).",
		Example: "  parley leave --dry-run\n  parley leave --yes --wait 10m",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			would, err := c.LookLeave(cmd.Context())
			if err != nil {
				return err
			}
			radius := leaveRadius(would)
			if dryRun {
				value := map[string]any{"node": would.Node, "core": would.Core, "heir": would.Heir, "voters": would.Voters, "left": false, "dry_run": true}
				return a.say(cmd, answer{value: value, table: func(w io.Writer) { row(w, radius) }})
			}
			if err := a.confirm(cmd.Context(), c, yes, radius); err != nil {
				return err
			}
			left, err := a.leave(cmd.Context(), c)
			if err != nil {
				return err
			}
			return a.say(cmd, answer{value: left, table: func(w io.Writer) {
				row(w, left.Node+" has left the cluster and stops; disable its unit, and remove its data directory")
			}})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would happen")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// leave asks until the core has let the agent go, for at most --wait.
func (a *app) leave(ctx context.Context, c *client.Client) (client.Leave, error) {
	limit := a.wait
	if limit == 0 {
		limit = leaveLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		left, err := c.Leave(ctx)
		var e *client.Error
		if err == nil || !errors.As(err, &e) || e.Code != "timeout" || ctx.Err() != nil {
			return left, err
		}
		_, _ = fmt.Fprintln(a.err, e.Message+", waiting")
	}
}

func leaveRadius(l client.Leave) string {
	text := l.Node + " leaves the cluster for good: its identity, its services and its name in gossip end, and it stops"
	switch {
	case l.Core == "none" || l.Core == "learner":
		return text + "; the core keeps its " + plural(l.Voters, "voter")
	case l.Heir != "":
		return text + "; it is a " + l.Core + " of the core, and " + l.Heir + " takes its place"
	}
	return fmt.Sprintf("%s; it is a %s of the core, nobody can take its place, and the core is left with %s, which survive the loss of %s",
		text, l.Core, plural(l.Voters, "voter"), plural((l.Voters-1)/2, "more voter"))
}

func (a *app) coreHoldCommand() *cobra.Command {
	var release, dryRun bool
	period := time.Hour
	cmd := &cobra.Command{
		Use:   "hold NODE",
		Short: "Begin the maintenance of an agent, or with --release end it",
		Long: "For as long as it is held an agent is not replaced in the core, however long it is away, and gets neither the\n" +
			"lead nor a vote. Its failure counts all the same: see the margin of parley core. It ends by itself.",
		Example: "  parley core hold n2 --for 30m\n  parley core hold n2 --release",
		Args:    takes("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if release {
				if cmd.Flags().Changed("for") {
					return usageError("like parley core hold n2 --release", "--release has no length")
				}
				period = 0
			} else if period == 0 {
				return usageError("like parley core hold n2 --for 30m", "0s is no length of time")
			}
			if dryRun {
				return a.dryHold(cmd, args[0], period)
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				until, err := c.HoldCore(ctx, args[0], period)
				value := map[string]any{"node": args[0], "held": period != 0}
				if period != 0 {
					value["until"] = until
				}
				return answer{value: value, table: func(w io.Writer) { row(w, holdText(args[0], period)) }}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().DurationVar(&period, "for", period, "for how long, at most a week")
	cmd.Flags().BoolVar(&release, "release", false, "end it now")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would happen")
	return cmd
}

func holdText(node string, period time.Duration) string {
	if period == 0 {
		return node + " is held no more"
	}
	return fmt.Sprintf("%s is held for %s: it is not replaced while it is away, and does not get the lead", node, period)
}

func afterLoss(margin int) string {
	if margin <= 0 {
		return "writes stop"
	}
	return fmt.Sprintf("%s may fail", plural(margin-1, "more voter"))
}

// dryHold tells what a hold costs: whether the others have a quorum while the agent is away.
func (a *app) dryHold(cmd *cobra.Command, node string, period time.Duration) error {
	c, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	core, err := c.Core(cmd.Context())
	if err != nil {
		return err
	}
	text := holdText(node, period)
	for _, v := range core.Voters {
		if v.Name == node && v.Healthy && period != 0 {
			text += "; it is a voter, and while it is away " + afterLoss(core.Margin)
		}
	}
	value := map[string]any{"node": node, "held": period != 0, "dry_run": true}
	return a.say(cmd, answer{value: value, table: func(w io.Writer) { row(w, text) }})
}
