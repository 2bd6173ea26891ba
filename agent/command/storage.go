package command

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/agent"
	"github.com/parley-mesh/parley/api/client"
)

// scrubLimit is longer than any scrub takes; what a scrub reads is bounded by what a core may hold.
const scrubLimit = 12 * time.Hour

func (a *app) storageCommand() *cobra.Command {
	cmd := group("storage", "Verify the files of the agent on this host")
	cmd.AddCommand(a.scrubCommand(), a.acceptTailCommand())
	return cmd
}

func (a *app) scrubCommand() *cobra.Command {
	var offline bool
	var rate uint64
	cmd := &cobra.Command{
		Use:   "scrub [NODE]",
		Short: "Read the whole log and all snapshots of an agent, and verify every checksum",
		Long: "Scrub finds damage on the disk before the copies on other hosts are gone as well. It changes nothing.\n" +
			"A running agent does it beside its work, and by itself once a day; with --offline the files of an agent\n" +
			"that does not run, or does not start, are read. It exits with 1 when it finds damage, unless --expect\n" +
			"decides.",
		Example: "  parley storage scrub\n  parley storage scrub a2\n  parley storage scrub --offline --data-dir /var/lib/parley -o json",
		Args:    takes("[NODE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			node := strings.Join(args, "")
			if offline && node != "" {
				return usageError("log in to that host and run it there", "--offline reads the files on this host, not those of %s", node)
			}
			if rate > 10000 {
				return usageError("choose 1 to 10000", "--mib-per-second %d is more than any disk reads", rate)
			}
			defer a.patience("reading log and snapshots; a large log takes minutes")()
			if offline {
				return a.scrubOffline(cmd, rate)
			}
			return a.scrubOnline(cmd, node, rate)
		},
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "read the files in --data-dir; its agent must not run")
	cmd.Flags().Uint64Var(&rate, "mib-per-second", 0, "read at most so much (default 32 beside a running agent, no limit with --offline)")
	return cmd
}

// patience tells a terminal what takes so long, unless the returned function is called before.
func (a *app) patience(line string) (end func()) {
	timer := time.AfterFunc(progressAfter, func() {
		if isTerminal(a.err) {
			_, _ = fmt.Fprintln(a.err, line)
		}
	})
	return func() { timer.Stop() }
}

func (a *app) scrubOnline(cmd *cobra.Command, node string, rate uint64) error {
	var report client.ScrubReport
	err := a.talk(func(ctx context.Context, c *client.Client) (answer, error) {
		ctx, cancel := context.WithTimeout(ctx, scrubLimit)
		defer cancel()
		var err error
		report, err = c.ScrubNode(ctx, node, rate)
		return scrubAnswer(report), err
	}, mayRepeat)(cmd, nil)
	return a.scrubVerdict(err, report)
}

func (a *app) scrubOffline(cmd *cobra.Command, rate uint64) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	found, err := agent.ScrubOffline(cmd.Context(), home, int64(rate)<<20)
	if err != nil {
		return err
	}
	report := client.ScrubReport{
		Errors: found.Errors, Disagree: found.Disagree, Segments: found.Segments, Entries: found.Entries, Snapshots: found.Snapshots, Bytes: found.Bytes, Healed: found.Healed,
		Problems: []client.ScrubProblem{},
	}
	for _, p := range found.Problems {
		report.Problems = append(report.Problems, client.ScrubProblem(p))
	}
	return a.scrubVerdict(a.say(cmd, scrubAnswer(report)), report)
}

func scrubAnswer(r client.ScrubReport) answer {
	return answer{value: r, table: func(w io.Writer) {
		fields(w, "errors", r.Errors, "checksums disagree", r.Disagree, "log segments", r.Segments, "log entries", r.Entries, "snapshots", r.Snapshots,
			"read", strconv.FormatInt(r.Bytes>>20, 10)+" MiB", "healed since the start", r.Healed)
		if len(r.Problems) == 0 {
			return
		}
		_, _ = fmt.Fprintln(w)
		row(w, "OFFSET", "FILE", "PROBLEM")
		for _, p := range r.Problems {
			row(w, strconv.FormatInt(p.Offset, 10), p.File, p.Message)
		}
	}}
}

func (a *app) scrubVerdict(err error, report client.ScrubReport) error {
	if err != nil || a.expect != "" || report.Errors == 0 {
		return err
	}
	return &failure{code: exitFailed, err: fmt.Errorf("damage found, problems: %d", report.Errors),
		hint: "keep a copy of the data directory, check the disk (dmesg, SMART), and follow: parley runbook show data-corruption"}
}
