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

// rootEvents is the kind of the events that tell of the roots.
const rootEvents = "root-rotation"

func (a *app) caCommand() *cobra.Command {
	cmd := group("ca", "The roots that all identities chain to, and their replacement")
	cmd.AddCommand(a.caStatusCommand(), a.caRotateCommand(), a.caTimelineCommand(), a.caRequestCommand(), a.caExternalCommand(), a.caResealCommand(), a.caTokenKeyCommand())
	return cmd
}

func (a *app) caStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Which roots there are, which one signs, and whom a replacement waits for",
		Args:  takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			s, err := c.CA(ctx)
			return answer{value: s, table: func(w io.Writer) { caTable(w, s) }}, err
		}),
	}
}

func caTable(w io.Writer, s client.CAStatus) {
	fields(w, "bundle", s.BundleSequence, "next rotation", instant(s.RotatesAt))
	if at := s.Authority; at != nil {
		fields(w, "authority", at.Subject, "signed by", at.SignedBy, "until", instant(at.NotAfter))
	}
	if at := s.NextAuthority; at != nil {
		fields(w, "next authority", at.Subject, "signed by", at.SignedBy, "until", instant(at.NotAfter))
	}
	if s.Compromised {
		fields(w, "compromised", "the root is replaced in haste, and the old one leaves the bundle soon")
	}
	switch {
	case !s.Measured:
		fields(w, "step", "not known: no leader has measured it")
	case s.Step != "none":
		fields(w, "step", s.Step+": "+s.Reason)
	}
	if s.Wanted && queues(s) {
		fields(w, "asked for", "another replacement, which begins when the old root has left the bundle")
	}
	if len(s.WaitingFor) > 0 {
		fields(w, "waiting for", strings.Join(s.WaitingFor, ", "))
	}
	_, _ = fmt.Fprintln(w)
	row(w, "ROOT", "SUBJECT", "ROLE", "FROM", "UNTIL")
	for _, r := range s.Roots {
		row(w, r.Hash[:min(16, len(r.Hash))], r.Subject, r.Role, instant(r.NotBefore), instant(r.NotAfter))
	}
	if len(s.TokenKeys) == 0 {
		return
	}
	_, _ = fmt.Fprintln(w)
	row(w, "TOKEN KEY", "NODE", "FROM", "UNTIL", "WAITING FOR")
	for _, k := range s.TokenKeys {
		row(w, k.ID[:min(16, len(k.ID))], k.Node, instant(k.PublishedAt), instant(k.NotAfter), strings.Join(k.WaitingFor, ", "))
	}
}

func (a *app) caRotateCommand() *cobra.Command {
	var force, compromised, yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the root now, without anybody noticing; it happens once a year by itself",
		Long: "The next root comes into the trust bundle of every agent first. It signs once all agents have said that they hold\n" +
			"it, those included that were there within the last three days; parley ca status names those that it waits for. The\n" +
			"old root leaves the bundle when nothing chains to it any more, after four days at the earliest.\n\n" +
			"--force does not wait for the agents that are named: each of them is cut off until it gets the bundle, and one that\n" +
			"cannot joins again. --compromised is for a root, or an issuer, whose key is in other hands: the new root signs\n" +
			"within seconds, issuers and agents are certified anew at once, and the old root leaves the bundle as soon as no\n" +
			"agent needs it, at the latest after ten minutes. What it signed, for whomever, counts no more then.",
		Example: "  parley ca rotate --dry-run\n  parley ca rotate --compromised",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), answerLimit)
			s, err := c.CA(ctx)
			cancel()
			if err != nil {
				return err
			}
			radius := rotateRadius(s, force, compromised)
			if dryRun {
				value := map[string]any{"force": force, "compromised": compromised, "asked": false, "waiting_for": s.WaitingFor, "dry_run": true}
				return a.say(cmd, answer{value: value, table: func(w io.Writer) { row(w, radius) }})
			}
			if err := a.confirm(cmd.Context(), c, yes, radius); err != nil {
				return err
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				err := c.RotateCA(ctx, force, compromised)
				value := map[string]any{"force": force, "compromised": compromised, "asked": true, "waiting_for": s.WaitingFor}
				return answer{value: value, table: func(w io.Writer) {
					row(w, rotateAsked(s, compromised))
				}}, err
			})(cmd, nil)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&force, "force", false, "do not wait for agents that do not hold the next root")
	flags.BoolVar(&compromised, "compromised", false, "the root's or an issuer's key is in other hands: replace it in minutes")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	flags.BoolVar(&dryRun, "dry-run", false, "only say what would happen")
	return cmd
}

// rotateRadius says what is at stake.
func rotateRadius(s client.CAStatus, force, compromised bool) string {
	text := "the root is replaced; nobody notices"
	switch {
	case force && len(s.WaitingFor) > 0:
		text = "the root is replaced"
	case queues(s) && !compromised:
		text = anotherOne
	}
	if compromised {
		text = "the root is replaced in haste; within ten minutes nothing that chains to the old one counts, whoever has it: agents that are " +
			"cut off for so long come back only by joining again, and third parties need the new bundle"
	}
	for _, r := range s.Roots {
		if r.Role == "next" {
			text += fmt.Sprintf("\n  a next root is in the bundle already: %.16s", r.Hash)
		}
	}
	switch {
	case len(s.WaitingFor) == 0:
	case force:
		text += "\n  not waited for, and cut off until they get the new bundle: " + strings.Join(s.WaitingFor, ", ")
	default:
		text += "\n  it waits for: " + strings.Join(s.WaitingFor, ", ")
	}
	return text
}

// anotherOne is what a rotation comes to while the one before is under way: by another operator, perhaps, who has just asked.
const anotherOne = "a replacement of the root is under way; another one is noted, and begins when the old root has left the bundle"

// queues reports whether another replacement has to wait: the new root signs already, and the old one is in the bundle still. While
// there is a next root, who asks again asks for the same.
func queues(s client.CAStatus) bool {
	has := func(role string) bool {
		return slices.ContainsFunc(s.Roots, func(r client.CARoot) bool { return r.Role == role })
	}
	return has("old") && !has("next")
}

// rotateAsked is the answer to who has asked for a rotation, by how the roots were before.
func rotateAsked(s client.CAStatus, compromised bool) string {
	const see = "; see parley ca status, and parley ca timeline"
	if queues(s) && !compromised {
		return anotherOne + see
	}
	return "the root is being replaced" + see
}

func (a *app) caTimelineCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "timeline",
		Short: "Each step of each replacement of the root, and when the next is due",
		Args:  takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			events, err := c.Events(ctx, client.EventOptions{Kind: rootEvents})
			if err != nil {
				return answer{}, err
			}
			s, err := c.CA(ctx)
			value := map[string]any{"events": list(events), "rotates_at": s.RotatesAt}
			return answer{value: value, table: func(w io.Writer) {
				eventTable(w, events)
				row(w, "")
				fields(w, "next rotation", instant(s.RotatesAt))
			}}, err
		}),
	}
}

func (a *app) caTokenKeyCommand() *cobra.Command {
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "token-key",
		Short: "Have this core member's next key of tokens sign, without the agents that it waits for",
		Long: "A core member signs JWT-SVIDs with a key of its own, which it replaces twice a day. The next one signs when all agents\n" +
			"have said that they hold it; parley ca status names those that it waits for. It waits for them until the key in use can\n" +
			"make no token of full life any more. This does not wait: programs on the hosts that are named refuse the tokens of this\n" +
			"core member until their agents have the key.",
		Example: "  parley ca token-key --dry-run",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), answerLimit)
			s, err := c.CA(ctx)
			if err != nil {
				cancel()
				return err
			}
			status, err := c.Status(ctx)
			cancel()
			if err != nil {
				return err
			}
			waiting := waitingTokenKey(s, status.Name)
			radius := "no key of tokens waits on " + status.Name
			if len(waiting) > 0 {
				radius = "tokens that " + status.Name + " signs are refused until they hold its next key on: " + strings.Join(waiting, ", ")
			}
			if dryRun {
				value := map[string]any{"node": status.Name, "without": list(waiting), "dry_run": true}
				return a.say(cmd, answer{value: value, table: func(w io.Writer) { row(w, radius) }})
			}
			if err := a.confirm(cmd.Context(), c, yes, radius); err != nil {
				return err
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				used, err := c.UseTokenKey(ctx)
				return answer{value: used, table: func(w io.Writer) { row(w, "the next key of tokens signs: "+used.ID) }}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would happen")
	return cmd
}

// waitingTokenKey is whom the next key of tokens of a node waits for.
func waitingTokenKey(s client.CAStatus, node string) []string {
	for _, k := range s.TokenKeys {
		if k.Node == node && len(k.WaitingFor) > 0 {
			return k.WaitingFor
		}
	}
	return nil
}
