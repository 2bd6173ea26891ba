package command

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) applyCommand() *cobra.Command {
	cmd := group("apply", "What the core applies, and commands that its members crash on")
	cmd.AddCommand(&cobra.Command{
		Use:   "status",
		Short: "Where each core member is, where it stopped, and what was left out",
		Long: "A member that crashes on a command applies nothing more, and goes on replicating. When a majority crashes on the\n" +
			"same one, and every voter has said that it has not applied it, the command is left out on all of them. Otherwise\n" +
			"those that crash are rebuilt from one that has applied it. Members with equal signatures have met the same mistake.",
		Example: "  parley apply status --wait 60s --expect 'all(.members[]; .lag==0)'",
		Args:    takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			found, err := c.ApplyStatus(ctx)
			return answer{value: found, table: func(w io.Writer) { applyTable(w, found) }}, err
		}),
	}, a.quarantineCommand())
	return cmd
}

func applyTable(w io.Writer, found client.ApplyReport) {
	row(w, "MEMBER", "COMMIT", "APPLIED", "LAG", "STOPPED AT", "SIGNATURE")
	for _, m := range found.Members {
		at, signature := "-", "-"
		if s := m.StoppedAt; s != nil {
			at, signature = fmt.Sprintf("command %d of entry %d: %s", s.Command, s.Index, s.Cause), s.Signature
		} else if m.Withheld > 0 {
			at = fmt.Sprintf("waits at entry %d", m.Withheld)
		}
		row(w, m.Name, strconv.FormatUint(m.Commit, 10), strconv.FormatUint(m.Applied, 10), strconv.FormatUint(m.Lag, 10), at, signature)
	}
	if len(found.Unreachable) > 0 {
		row(w, "\nno answer: "+strings.Join(found.Unreachable, ", "))
	}
	for _, one := range found.Cases {
		row(w, fmt.Sprintf("\nentry %d, command %d: %s", one.Index, one.Command, one.Verdict))
		for _, name := range slices.Sorted(maps.Keys(one.Answers)) {
			row(w, "  "+name, one.Answers[name])
		}
	}
	for _, q := range found.Quarantined {
		row(w, fmt.Sprintf("left out: command %d of entry %d (%s), %s", q.Command, q.Index, q.Kind, q.Hash[:min(12, len(q.Hash))]))
	}
}

// quarantineRadius is what quarantineCommand puts at stake.
const quarantineRadius = "a voter that has applied the command, or does not answer, may have told a client that it is done: " +
	"that is undone, and such a voter is rebuilt"

func (a *app) quarantineCommand() *cobra.Command {
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "quarantine INDEX COMMAND",
		Short: "Leave a command out that a majority of the core crashes on, although not all voters agree",
		Long: "The core leaves such a command out by itself once every voter has said that it has not applied it. When one of\n" +
			"them is gone for good, or lost its journal with the power, nobody can exclude that it has, and an operator decides.\n" +
			"Start the others first if you can. Run it on the host of the leader. Commands about the core, identities and\n" +
			"denials are never left out.",
		Example: "  parley apply quarantine 1042 0 --dry-run",
		Args:    takes("INDEX", "COMMAND"),
		RunE: func(cmd *cobra.Command, args []string) error {
			index, err := strconv.ParseUint(args[0], 10, 64)
			place, err2 := strconv.ParseUint(args[1], 10, 16)
			if err != nil || err2 != nil || index == 0 {
				return usageError("parley apply status shows both", "%s %s name no command", args[0], args[1])
			}
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if dryRun {
				found, err := c.ApplyStatus(cmd.Context())
				if err != nil {
					return err
				}
				return a.say(cmd, quarantinePlan(found, index, int(place)))
			}
			if err := a.confirm(cmd.Context(), c, yes, quarantineRadius); err != nil {
				return err
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				err := c.Quarantine(ctx, index, int(place))
				return answer{value: map[string]any{"index": index, "command": place, "dry_run": false}, table: func(w io.Writer) {
					row(w, fmt.Sprintf("command %d of entry %d is left out; parley apply status shows when all members are past it", place, index))
				}}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what is at stake")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// quarantinePlan says whom it would concern.
func quarantinePlan(found client.ApplyReport, index uint64, place int) answer {
	answers := map[string]string{}
	verdict := "no member has stopped there: it would be refused"
	for _, one := range found.Cases {
		if one.Index == index && one.Command == place {
			answers, verdict = one.Answers, one.Verdict
		}
	}
	value := map[string]any{"index": index, "command": place, "dry_run": true, "answers": answers, "verdict": verdict}
	return answer{value: value, table: func(w io.Writer) {
		row(w, verdict)
		for _, name := range slices.Sorted(maps.Keys(answers)) {
			row(w, "  "+name, answers[name])
		}
		row(w, quarantineRadius)
	}}
}
