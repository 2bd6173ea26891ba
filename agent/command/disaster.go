package command

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/agent"
)

func (a *app) disasterCommand() *cobra.Command {
	cmd := group("disaster", "Go on after a majority of the core is lost for good")
	cmd.AddCommand(a.disasterInspectCommand(), a.disasterRecoverCommand())
	return cmd
}

func (a *app) disasterInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect",
		Short: "Show where the log of a stopped core member ends, to choose the survivor to recover on",
		Long: "Inspect reads the data directory on this host; its agent must be stopped. The best survivor is the one with the\n" +
			"highest last term, and among those the highest last index. A longer log of an earlier term is not better. As a\n" +
			"start of the agent does, it cuts a write at the end that a crash has torn, and keeps it aside. After a recovery\n" +
			"that was cut off it first puts the log of before in its place again.",
		Example: "  parley disaster inspect --data-dir /var/lib/parley -o json > a1.json",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			defer a.patience("reading the log")()
			found, err := agent.Inspect(home)
			if err != nil {
				return err
			}
			return a.say(cmd, answer{value: found, table: func(w io.Writer) { survivorTable(w, found) }})
		},
	}
}

func survivorTable(w io.Writer, s agent.SurvivorReport) {
	fields(w, "node", s.Node, "cluster", s.ClusterID, "epoch", fmt.Sprintf("%d %s", s.Epoch, s.EpochID), "raft id", s.RaftID,
		"last term", s.LastTerm, "last index", s.LastIndex, "committed", s.CommitIndex, "snapshot", s.SnapshotIndex,
		"voters", strings.Join(s.Voters, ", "), "chain", s.Chain)
	if s.InDoubt != "" {
		fields(w, "in doubt", s.InDoubt)
	}
}

func (a *app) disasterRecoverCommand() *cobra.Command {
	var yes, dryRun bool
	var peers []string
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make a stopped core member the core of a new epoch, from all that its log holds",
		Long: "For when a majority of the core is lost for good and the disk of a member is left. Stop all members of the core\n" +
			"that you reach first. Give --peer the file of each other survivor (parley disaster inspect -o json): the recovery is refused when\n" +
			"one of them has the better log. It keeps every entry of this log, and says which of them cannot be proven to have\n" +
			"been committed, and whether acknowledged writes may be missing. The log of before is moved aside, not deleted.\n" +
			"Afterwards start the agent, then the others. A member of the old core learns that its epoch has passed as soon as it\n" +
			"reaches any agent that knows, by a statement that this host signs: it stops answering, keeps its log aside, and comes\n" +
			"back under a new Raft id. One that reaches nobody who knows cannot know: a majority of the old core that is cut off\n" +
			"goes on, and what it acknowledges is lost. That is why they should be stopped first.",
		Example: "  parley disaster recover --data-dir /var/lib/parley --peer a2.json --dry-run\n" +
			"  parley disaster recover --data-dir /var/lib/parley --peer a2.json",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.recoverCore(cmd, peers, yes, dryRun) },
	}
	cmd.Flags().StringArrayVar(&peers, "peer", nil, "the inspect file of another survivor; once for each")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check everything and only say what would happen")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask before the new epoch begins")
	return cmd
}

func (a *app) recoverCore(cmd *cobra.Command, peers []string, yes, dryRun bool) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	defer a.patience("replaying the log")()
	r, err := agent.OpenRecovery(home, peers)
	if err != nil {
		return err
	}
	r.Report.DryRun = dryRun
	return a.beginEpoch(cmd, r, epochStep{
		report: r.Report, radius: recoveryRadius(r.Report), cluster: r.Report.TrustDomain, yes: yes, dryRun: dryRun,
		done: func(w io.Writer) { recoveredTable(w, r.Report) },
	})
}

// recoveryRadius says what is at stake before it is too late.
func recoveryRadius(r agent.RecoveryReport) string {
	var b strings.Builder
	fmt.Fprintf(&b, "this makes %s the only member of the core of %s, from its log, which ends at term %d, index %d\n", r.Node, r.TrustDomain,
		r.Survivor.LastTerm, r.Survivor.LastIndex)
	fmt.Fprintf(&b, "  %s are in it, compared with the logs of %s\n", plural(r.Keys, "key"), plural(len(r.Peers), "other survivor"))
	fmt.Fprintf(&b, "  not proven: %s\n", r.Unproven())
	if len(r.MissingLogs) > 0 {
		fmt.Fprintf(&b, "  voters whose logs were not compared, by Raft id: %s\n", strings.Join(r.MissingLogs, ", "))
	}
	fmt.Fprintf(&b, "  the log and snapshots in %s are moved to %s\n", r.DataDir, r.Aside)
	fmt.Fprintf(&b, "  the new epoch is %d", r.Epoch)
	if len(r.OtherMembers) > 0 {
		fmt.Fprintf(&b, "; %s should be stopped until this one runs: what they acknowledge from now on is lost", strings.Join(r.OtherMembers, ", "))
	}
	return b.String()
}

func recoveredTable(w io.Writer, r agent.RecoveryReport) {
	fields(w, "recovered", r.Node+" is the core of "+r.TrustDomain, "epoch", r.Epoch, "index", r.Index, "raft id", r.RaftID,
		"keys", r.Keys, "not proven", r.Unproven(), "digest", r.Digest, "log of before", r.Aside, "next", "start the agent on this host, then the others")
}
