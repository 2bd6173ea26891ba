package command

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) digestCommand() *cobra.Command {
	cmd := group("digest", "Whether the members of the core hold the same state")
	cmd.AddCommand(&cobra.Command{
		Use:   "compare",
		Short: "Compare the digests of all core members at one index",
		Long: "One group is good. With more, the minority is who a majority contradicts; without a majority it is all\n" +
			"of them, because nobody can say who is right. A member that does not answer is not compared, nor is one\n" +
			"that should be in the core and is not; both are named.",
		Example: "  parley digest compare --wait 30s --expect '.groups==1'",
		Args:    takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			found, err := c.CompareDigests(ctx)
			return answer{value: found, table: func(w io.Writer) { digestTable(w, found) }}, err
		}),
	}, a.digestDiffCommand(), a.digestAcceptCommand())
	return cmd
}

func digestTable(w io.Writer, found client.DigestComparison) {
	row(w, "MEMBER", "DIGEST")
	for _, m := range found.Members {
		row(w, m.Name, m.Digest)
	}
	missing := len(found.Unreachable) + len(found.Behind) + len(found.Absent)
	verdict := fmt.Sprintf("all %d hold the same at index %d", len(found.Members), found.Index)
	if missing > 0 {
		verdict = fmt.Sprintf("the %d that were compared hold the same at index %d; %d did not take part", len(found.Members), found.Index, missing)
	}
	if found.Groups > 1 {
		verdict = fmt.Sprintf("%d different states at index %d; minority: %s", found.Groups, found.Index, strings.Join(found.Minority, ", "))
	}
	row(w, "\n"+verdict)
	for _, d := range found.Differences {
		row(w, fmt.Sprintf("%s differs in the %s row %q", d.Member, d.Table, d.Key))
	}
	if len(found.Unreachable) > 0 {
		row(w, "no answer: "+strings.Join(found.Unreachable, ", "))
	}
	if len(found.Behind) > 0 {
		row(w, "not at that index: "+strings.Join(found.Behind, ", "))
	}
	if len(found.Absent) > 0 {
		row(w, "not in the core, which has room for them: "+strings.Join(found.Absent, ", "))
	}
}

func (a *app) digestDiffCommand() *cobra.Command {
	var reference string
	cmd := &cobra.Command{
		Use:   "diff [NODE]",
		Short: "Name the rows in which members of the core differ",
		Long: "Without NODE all that a majority contradicts are compared with one of the majority, and without a majority all\n" +
			"with the first. Each row is named by table and key, with the beginnings of hashes; values are never shown. Rows that\n" +
			"changed on one of the two meanwhile are left out. It needs the role operator, on a host of the core.",
		Example: "  parley digest diff a3\n" +
			"  parley digest diff --reference a1 -o json",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				found, err := c.DiffDigests(ctx, strings.Join(args, ""), reference)
				return answer{value: found, table: func(w io.Writer) { diffTable(w, found) }}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().StringVar(&reference, "reference", "", "the member that the others are compared with")
	return cmd
}

func diffTable(w io.Writer, found client.DigestDiff) {
	row(w, "MEMBER", "TABLE", "KEY", "WHAT", "REVISION", "OF "+found.Reference, "HASH", "OF "+found.Reference)
	for _, d := range found.Differences {
		row(w, d.Member, d.Table, fmt.Sprintf("%q", d.Key), d.Kind, fmt.Sprint(d.Revision), fmt.Sprint(d.ReferenceRevision), orDash(d.Hash), orDash(d.ReferenceHash))
	}
	row(w, "\n"+diffVerdict(found))
}

func diffVerdict(found client.DigestDiff) string {
	if len(found.Members) == 0 {
		return fmt.Sprintf("nobody differs at index %d", found.Index)
	}
	verdict := fmt.Sprintf("%s differ between %s and %s at index %d", plural(len(found.Differences), "row"), strings.Join(found.Members, ", "), found.Reference, found.Index)
	if found.More {
		verdict += ", and there are more"
	}
	if len(found.Unanswered) > 0 {
		verdict += "; no answer about rows: " + strings.Join(found.Unanswered, ", ")
	}
	return verdict
}

func (a *app) digestAcceptCommand() *cobra.Command {
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "accept NODE",
		Short: "Choose whose state is right while none has a majority",
		Long: "While the members of the core hold different states and none has a majority, writes are refused: nobody can say\n" +
			"who is right. Accept is that word. The state of NODE goes on; every member that differs from it answers nothing\n" +
			"more, is rebuilt from it, and answers again after three equal checkpoints. What they held is kept on their disks,\n" +
			"below fenced/. It is refused while a state has a majority.",
		Example: "  parley digest accept a2 --dry-run",
		Args:    takes("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			radius, found, err := acceptRadius(cmd.Context(), c, args[0])
			if err == nil && !dryRun {
				err = a.confirm(cmd.Context(), c, yes, radius)
			}
			c.Close()
			if err != nil {
				return err
			}
			if dryRun {
				value := map[string]any{"node": args[0], "index": found.Index, "dry_run": true, "given_up": list(found.Members)}
				return a.say(cmd, answer{value: value, table: func(w io.Writer) { row(w, radius) }})
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				index, err := c.AcceptDigest(ctx, args[0])
				value := map[string]any{"node": args[0], "index": index, "dry_run": false, "given_up": list(found.Members)}
				return answer{value: value, table: func(w io.Writer) {
					row(w, fmt.Sprintf("the state of %s at entry %d goes on; the others are rebuilt: parley digest compare --wait 5m --expect '.groups==1'", args[0], index))
				}}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what is given up")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// acceptRadius says what choosing a node's state costs: the rows of the others that differ from it.
func acceptRadius(ctx context.Context, c *client.Client, node string) (radius string, found client.DigestDiff, err error) {
	found, err = c.DiffDigests(ctx, "", node)
	if err != nil {
		return "", found, err
	}
	differing := slices.DeleteFunc(slices.Clone(found.Members), func(m string) bool {
		return !slices.Contains(found.Unanswered, m) && !slices.ContainsFunc(found.Differences, func(d client.RowDiff) bool { return d.Member == m })
	})
	found.Members = differing
	radius = fmt.Sprintf("the state of %s at index %d is taken for right, and given up are those of %s: %s", node, found.Index,
		orDash(strings.Join(differing, ", ")), plural(len(found.Differences), "row"))
	if found.More {
		radius += " or more"
	}
	for i, d := range found.Differences {
		if i == maxListed {
			return radius + fmt.Sprintf("\n  ... and %d more", len(found.Differences)-maxListed), found, nil
		}
		radius += fmt.Sprintf("\n  %s: %s row %q %s", d.Member, d.Table, d.Key, d.Kind)
	}
	return radius, found, nil
}
