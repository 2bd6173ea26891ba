package command

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) kvHistoryCommand() *cobra.Command {
	var stale bool
	cmd := &cobra.Command{
		Use:   "history KEY",
		Short: "Print what a key was: its versions, the newest first",
		Long: "History prints the versions of a key, deletions included; 'parley kv get KEY --revision R' has the value of one.\n" +
			"At least the 16 newest earlier versions of a key stay for seven days, as long as those of all keys are fewer than\n" +
			"131,072 and take less than 64 MiB; beyond that the oldest of all go first. since is 0 when nothing is missing.",
		Example: "  parley kv history web/1",
		Args:    takes("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				h, err := c.History(ctx, args[0], stale)
				return answer{value: h, table: func(w io.Writer) { historyTable(w, h) }}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&stale, "stale", false, "take the nearest copy, even without a leader; it may be behind")
	return cmd
}

func historyTable(w io.Writer, h client.History) {
	row(w, "REVISION", "VERSION", "MODIFIED", "VALUE")
	for _, v := range h.Versions {
		if v.Deleted {
			row(w, fmt.Sprint(v.Revision), "-", "-", "(deleted)")
			continue
		}
		row(w, fmt.Sprint(v.Revision), fmt.Sprint(v.Version), instant(v.ModifiedAt), oneLine(v.Value))
	}
	if h.Since > 0 {
		row(w, fmt.Sprintf("what it was before revision %d is not kept any more", h.Since))
	}
}

// undoing is the JSON of `parley kv undo`.
type undoing struct {
	client.Undone
	DryRun bool `json:"dry_run"`
}

func (a *app) kvUndoCommand() *cobra.Command {
	var revision uint64
	var dryRun bool
	var request string
	cmd := &cobra.Command{
		Use:   "undo KEY",
		Short: "Take back the last write of a key, deletions included",
		Long: "Undo gives a key the value that it had before its last write, or deletes it if there was none. It is a write\n" +
			"itself, and can be undone. If somebody changes the key in between, or --revision is not its last write, it is\n" +
			"refused, and says by which revision the key was changed.",
		Example: "  parley kv undo web/1 --dry-run\n  parley kv undo web/1 --revision 12   # only if its last write is still that of revision 12",
		Args:    takes("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			named := cmd.Flags().Changed("revision")
			if request != "" && !named {
				return usageError("name the revision that was to be undone", "--request-id without --revision")
			}
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			var plan undoing
			if dryRun || !named {
				if plan, err = planUndo(cmd.Context(), c, args[0], revision, named); err != nil {
					return err
				}
			}
			if dryRun {
				return a.say(cmd, answer{value: plan, table: func(w io.Writer) { row(w, plan.text("this would take back")) }})
			}
			if !named {
				revision = plan.Undone.Undone
			}
			return a.ask(cmd, mayRepeat, func(ctx context.Context) (answer, error) {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerLimit)
				defer cancel()
				done, err := c.Undo(ctx, args[0], revision, request)
				shown := undoing{Undone: done}
				return answer{value: shown, table: func(w io.Writer) { row(w, shown.text("took back")) }}, err
			})
		},
	}
	flags := cmd.Flags()
	requestIDFlag(cmd, &request)
	flags.Uint64Var(&revision, "revision", 0, "the write to take back; it must be the key's last (default: whichever is)")
	flags.BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	return cmd
}

func (u undoing) text(what string) string {
	text := fmt.Sprintf("%s revision %d of %s: ", what, u.Undone.Undone, oneName(u.Key))
	if u.Deleted {
		text += "it is deleted"
	} else {
		text += fmt.Sprintf("it has the value of revision %d", u.Restored)
	}
	if u.Revision > 0 {
		text += fmt.Sprintf(", at revision %d", u.Revision)
	}
	return text
}

// planUndo says what an undo would do, or as the agent would why it cannot be done.
func planUndo(ctx context.Context, c *client.Client, key string, revision uint64, named bool) (undoing, error) {
	h, err := c.History(ctx, key, false)
	if err != nil {
		return undoing{}, err
	}
	if len(h.Versions) == 0 {
		return undoing{}, errors.New("the agent lists no version at all")
	}
	now := h.Versions[0]
	plan := undoing{Undone: client.Undone{Key: key, Undone: now.Revision}, DryRun: true}
	switch {
	case named && now.Revision != revision:
		return plan, usageError(fmt.Sprintf("undo revision %d first, or put the value that you want", now.Revision),
			"the key %q was changed by revision %d: revision %d is not its last write", key, now.Revision, revision)
	case len(h.Versions) == 1 && h.Since > 0:
		return plan, usageError("put the value that you want", "the history of %q begins at revision %d: what was before is not kept any more", key, h.Since)
	case len(h.Versions) == 1 || h.Versions[1].Deleted:
		plan.Deleted = true
		if now.Deleted {
			return plan, usageError("put the value that you want", "nothing to undo: the key %q was deleted before revision %d as well", key, now.Revision)
		}
	default:
		plan.Restored = h.Versions[1].Revision
	}
	return plan, nil
}

// purge is the JSON of `parley kv purge`.
type purge struct {
	Key    string `json:"key"`
	Purged uint64 `json:"purged"`
	DryRun bool   `json:"dry_run"`
}

func (a *app) kvPurgeCommand() *cobra.Command {
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "purge KEY",
		Short: "Forget what a key was, such as a secret that leaked; what it is stays",
		Long: "Purge removes the earlier versions of a key from the state of all core members. It cannot be undone. The key's\n" +
			"present value stays: write the new secret first. Bytes that were written remain on the disks of the core until\n" +
			"its log and its snapshots are replaced, and in backups: so replace the secret itself.",
		Example: "  parley kv put db/password --file new-password && parley kv purge db/password",
		Args:    takes("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if dryRun || !yes {
				h, err := c.History(cmd.Context(), args[0], false)
				if err != nil && !isNotFound(err) {
					return err
				}
				n := max(0, len(h.Versions)-1)
				radius := fmt.Sprintf("this forgets %s of %s for good", plural(n, "earlier version"), oneName(args[0]))
				if dryRun {
					return a.say(cmd, answer{
						value: purge{Key: args[0], Purged: uint64(n), DryRun: true}, //nolint:gosec // a length
						table: func(w io.Writer) { row(w, radius) },
					})
				}
				if err := a.confirm(cmd.Context(), c, false, radius); err != nil {
					return err
				}
			}
			return a.ask(cmd, mayRepeat, func(ctx context.Context) (answer, error) {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerLimit)
				defer cancel()
				n, err := c.Purge(ctx, args[0])
				return answer{value: purge{Key: args[0], Purged: n}, table: func(w io.Writer) {
					row(w, fmt.Sprintf("forgot %s of %s", plural(int(n), "earlier version"), oneName(args[0]))) //nolint:gosec // bounded
				}}, err
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be forgotten")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask before")
	return cmd
}
