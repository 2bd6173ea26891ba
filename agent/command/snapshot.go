package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/agent"
	"github.com/parley-mesh/parley/security"
)

func (a *app) snapshotCommand() *cobra.Command {
	cmd := group("snapshot", "Back up the whole state of the cluster, and restore it")
	cmd.AddCommand(a.snapshotSaveCommand(), a.snapshotVerifyCommand(), a.snapshotInspectCommand(), a.snapshotRestoreCommand())
	return cmd
}

func (a *app) snapshotSaveCommand() *cobra.Command {
	var stale, overwrite bool
	cmd := &cobra.Command{
		Use:   "save FILE",
		Short: "Write a backup of the whole state to a file, and verify it by restoring it in memory",
		Long: "The backup has every write that was acknowledged before it was taken. FILE gets its name only once its content\n" +
			"was restored in memory and has the digest of the state. It is readable by its owner alone: it holds the keys and\n" +
			"values, and the root's key sealed to the core members. Ask a member of the core.",
		Example: "  parley snapshot save /backup/parley-1.parley\n  parley snapshot save now.parley --stale   # without a leader",
		Args:    takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" || args[0] == "-" {
				return usageError("the content is verified by reading it back, so it has to be a file", "FILE is %q", args[0])
			}
			file, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			interruptible, stop := untilSignal(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			cmd.SetContext(interruptible)
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			defer a.patience("reading the state and restoring it in memory")()
			return a.ask(cmd, mayRepeat, func(ctx context.Context) (answer, error) {
				report, err := agent.SaveBackup(file, overwrite, func(w io.Writer) error { return c.SaveSnapshot(ctx, stale, w) })
				if got := (interrupted{}); err != nil && errors.As(context.Cause(ctx), &got) {
					err = &failure{code: got.code(), err: fmt.Errorf("%w: there is no new backup in %s", got, file)}
				}
				return backupAnswer(report), err
			})
		},
	}
	cmd.Flags().BoolVar(&stale, "stale", false, "take what the asked agent has, also without a leader")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace FILE if it exists, once the new one is verified")
	return cmd
}

func (a *app) snapshotVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE",
		Short: "Restore a backup in memory and compare its digest",
		Long: "Verify reads every byte of the file, restores the state in memory, and compares its digest with the one that the\n" +
			"file names. It needs no agent. It exits with 1 when something is wrong, unless --expect decides.",
		Example: "  parley snapshot verify backup.parley -o json --expect '.digest==.expected'",
		Args:    takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			defer a.patience("restoring the backup in memory")()
			report, err := agent.VerifyBackup(args[0])
			if err != nil {
				return err
			}
			return a.backupVerdict(a.say(cmd, backupAnswer(report)), report)
		},
	}
}

func (a *app) backupVerdict(err error, report agent.BackupReport) error {
	if err != nil || a.expect != "" || report.OK {
		return err
	}
	return &failure{code: exitFailed, err: errors.New(report.Problem),
		hint: "keep the file, check the disk that it was on, and take another backup: parley snapshot save FILE"}
}

func backupAnswer(r agent.BackupReport) answer {
	return answer{value: r, table: func(w io.Writer) { backupTable(w, r) }}
}

func backupTable(w io.Writer, r agent.BackupReport) {
	verdict := "intact: restored in memory, the digest is right"
	if !r.OK {
		verdict = "NOT intact: " + r.Problem
	}
	fields(w, "file", r.File, "backup", verdict, "size", fmt.Sprintf("%d bytes, %d of content", r.Bytes, r.Content))
	m := r.Manifest
	if m == nil {
		return
	}
	fields(w, "trust domain", m.TrustDomain, "cluster", m.ClusterID, "epoch", m.Epoch, "index", m.Index, "term", m.Term,
		"revision", m.Revision, "taken", instant(m.TakenAt)+" by "+oneName(m.Node), "last entry", m.HLC, "version", oneName(m.Version),
		"digest", r.Expected)
	for _, table := range slices.Sorted(maps.Keys(m.Rows)) {
		fields(w, "rows of "+oneName(table), m.Rows[table])
	}
}

func (a *app) snapshotInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what is in a backup: whose it is, and how much of what",
		Long: "Inspect shows no key, value, token or sealed key. The column RESTORE says on which hosts the backup can be\n" +
			"restored. It needs no agent, and exits with 1 when the file is damaged, unless --expect decides.",
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			defer a.patience("reading the backup")()
			found, err := agent.InspectBackup(args[0])
			if err != nil {
				return err
			}
			return a.backupVerdict(a.say(cmd, answer{value: found, table: func(w io.Writer) { contentsTable(w, found) }}), found.BackupReport)
		},
	}
}

func contentsTable(w io.Writer, c agent.BackupContents) {
	backupTable(w, c.BackupReport)
	if !c.OK {
		return
	}
	fields(w, "keys", fmt.Sprintf("%d with %d bytes", c.Keys, c.KVBytes), "sessions", c.Sessions,
		"core", strings.Join(c.Core, ", "), "roots", strings.Join(c.Roots, ", "), "services", len(c.Services))
	_, _ = fmt.Fprintln(w)
	row(w, "NODE", "ZONE", "ROLE", "LEFT", "RESTORE")
	for _, n := range c.Nodes {
		row(w, oneName(n.Name), oneName(n.Zone), n.Role, yesNo(n.Left), yesNo(n.Restore))
	}
}

func (a *app) snapshotRestoreCommand() *cobra.Command {
	var yes, dryRun bool
	var host newHost
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the data directory of a stopped core member begin anew from a backup, as a core of one",
		Long: "For when a majority of the core is lost for good, or its state is. Stop all members of the core first. The host\n" +
			"must have been a member when the backup was taken, and still have its identity. It begins a new epoch: indexes,\n" +
			"revisions and Raft ids go on above all that there were, join tokens are void, sessions end, and what this host\n" +
			"knows of nodes that left since does not come undone. Its log of before is moved aside, not deleted. Afterwards\n" +
			"start its agent, then the others: whoever still lives in the old epoch is shown what this host signs about the new one,\n" +
			"keeps its log aside, and comes back under a new Raft id.\n\n" +
			"With --recovery-key it needs no host of before: it makes a new one in an empty data directory, under a --name that\n" +
			"no agent of the cluster has had, and opens the root with the key of parley init. The other agents keep their trust\n" +
			"and their identities: the new host calls on them, and shows what the root signs. What was decided after the backup,\n" +
			"such as who left, is not known to it.",
		Example: "  parley snapshot restore backup.parley --data-dir /var/lib/parley --dry-run\n" +
			"  parley snapshot restore backup.parley --data-dir /var/lib/parley\n" +
			"  parley snapshot restore backup.parley --recovery-key recovery.key --name r1 --advertise 10.0.0.9:8310",
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.restore(cmd, args[0], host, yes, dryRun) },
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check everything and only say what would happen")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask before the state is replaced")
	cmd.Flags().StringVar(&host.keyFile, "recovery-key", "", "file with the recovery key: begin on a host that the cluster does not know")
	cmd.Flags().StringVar(&host.name, "name", "", "with --recovery-key: the new host's name")
	cmd.Flags().StringVar(&host.zone, "zone", "", "with --recovery-key: its failure domain")
	cmd.Flags().StringVar(&host.address, "advertise", "", "with --recovery-key: its mesh address as others reach it, IP:PORT")
	return cmd
}

// newHost is what the flags say of a host that the cluster does not know.
type newHost struct{ keyFile, name, zone, address string }

// open prepares the restore.
func (h newHost) open(home, file string) (*agent.Restore, error) {
	if h.keyFile == "" {
		if h.name+h.zone+h.address != "" {
			return nil, usageError("a host that was in the core keeps its name and address", "--name, --zone and --advertise go with --recovery-key")
		}
		return agent.OpenRestore(home, file)
	}
	if h.name == "" || h.address == "" {
		return nil, usageError("like --name r1 --advertise 10.0.0.9:8310", "say with --name and --advertise what the new host is called, and where others reach it")
	}
	key, err := security.ReadRecoveryKey(h.keyFile)
	if err != nil {
		return nil, usageError("give the file with the key that parley init showed, or that --recovery-recipient was the public half of", "--recovery-key: %w", err)
	}
	return agent.OpenRestoreNew(home, file, agent.NewHost{Name: h.name, Zone: h.zone, Address: h.address, Key: key})
}

func (a *app) restore(cmd *cobra.Command, file string, host newHost, yes, dryRun bool) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	defer a.patience("restoring the backup in memory")()
	r, err := host.open(home, file)
	if err != nil {
		return err
	}
	r.Report.DryRun = dryRun
	return a.beginEpoch(cmd, r, epochStep{
		report: r.Report, radius: restoreRadius(r.Report), cluster: r.Report.TrustDomain, yes: yes, dryRun: dryRun,
		done: func(w io.Writer) { restoredTable(w, r.Report) },
	})
}

// restoreRadius says what is at stake before it is too late.
func restoreRadius(r agent.RestoreReport) string {
	var b strings.Builder
	fmt.Fprintf(&b, "this makes %s the only member of the core of %s, from the backup of %s at index %d\n", r.Node, r.TrustDomain, instant(r.TakenAt), r.BackupIndex)
	fmt.Fprintf(&b, "  every write after that is undone")
	switch {
	case r.LastIndexHere > r.BackupIndex:
		fmt.Fprintf(&b, "; this host has seen index %d", r.LastIndexHere)
	case r.Aside == "":
		fmt.Fprintf(&b, "; nodes that left since the backup come back")
	case r.LastIndexHere == 0:
		fmt.Fprintf(&b, "; this host's copy of the public state cannot be read: nodes that left since the backup come back")
	}
	fmt.Fprintf(&b, "\n  %s come back; all join tokens are void, %s end\n", plural(r.Keys, "key"), plural(r.SessionsEnded, "session"))
	if r.Aside == "" {
		fmt.Fprintf(&b, "  %s becomes the data directory of the new host\n", r.DataDir)
	} else {
		fmt.Fprintf(&b, "  the log and snapshots in %s are moved to %s\n", r.DataDir, r.Aside)
	}
	fmt.Fprintf(&b, "  the new epoch is %d: agents of the old one follow as soon as they reach one of it; %s", r.Epoch, othersOf(r))
	return b.String()
}

func othersOf(r agent.RestoreReport) string {
	if len(r.OtherMembers) == 0 {
		return "there is no other member of the core"
	}
	return strings.Join(r.OtherMembers, ", ") + " should be stopped until it runs: what they acknowledge from now on is lost"
}

func restoredTable(w io.Writer, r agent.RestoreReport) {
	fields(w, "restored", r.Node+" is the core of "+r.TrustDomain, "epoch", r.Epoch, "index", r.Index, "raft id", r.RaftID,
		"keys", r.Keys, "digest", r.Digest, "log of before", orDash(r.Aside), "next", "start the agent on this host, then the others")
}

// confirmName is confirm without an agent to ask for the name.
func (a *app) confirmName(yes bool, radius, name string) error {
	if yes {
		return nil
	}
	_, _ = fmt.Fprintf(a.err, "%s\ntype the cluster's name, %s, to go on: ", radius, name)
	typed, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(typed) != name {
		return &failure{code: exitDenied, err: errors.New("not confirmed, nothing was changed"),
			hint: "type the cluster's name, or say --yes; --dry-run shows what would happen"}
	}
	return nil
}
