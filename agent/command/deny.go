package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) denyCommand() *cobra.Command {
	cmd := group("deny", "Identities and certificates that count no more")
	cmd.AddCommand(a.denyAddCommand(), a.denyListCommand(), a.denyRemoveCommand())
	return cmd
}

func (a *app) denyAddCommand() *cobra.Command {
	var lasts time.Duration
	var reason string
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "add WHAT",
		Short: "Deny the identity of a program or an operator, or one certificate",
		Long: "WHAT is a SPIFFE ID or its path, such as /svc/web or /parley/operator/eve, or the serial number of a certificate in\n" +
			"hex. Every agent refuses what is denied, in the handshake and on connections that are open, within a second of the\n" +
			"commit; one that is cut off from the core, as soon as another agent tells it. A denied identity gets no certificate and no\n" +
			"token any more, and its tokens are refused by the agents' Workload API. Of a denied certificate the holder may get\n" +
			"another one, with another key: a program from its agent at once, an agent by the key of its host. Where SPIRE certifies\n" +
			"the agents, nobody here can: a denied one is shut out until SPIRE gives it the next. An operator's key stays\n" +
			"the same: replace it with parley operator add --replace. Those who check certificates by themselves go by their end.\n\n" +
			"An identity is denied for good unless --for says how long; a certificate for 7 hours, longer than any lasts that the\n" +
			"cluster signs. An agent is shut out together with its host: parley evict. What an issuer or a root has signed is replaced by\n" +
			"parley ca rotate --compromised.\n\n" +
			"It asks before it denies whoever asks, or the last operator that may deny and let in again: then only the admin socket of an\n" +
			"agent's host is left.",
		Example: "  parley deny add /svc/web --reason 'key found in a log'\n" +
			"  parley deny add /parley/operator/eve --for 24h\n" +
			"  parley deny add 4f0c6e5d1b7a9e3f2d4c8b6a0f1e2d3c",
		Args: takes("WHAT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if lasts < 0 || lasts%time.Second != 0 {
				return usageError("like --for 24h", "a denial lasts a number of whole seconds, not %s", lasts)
			}
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			radius, err := a.denyRadius(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if dryRun {
				return a.sayDenied(cmd, c, args[0], lasts, reason, radius)
			}
			if radius != "" {
				if err := a.confirm(cmd.Context(), c, yes, radius); err != nil {
					return err
				}
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				d, err := c.SetDeny(ctx, args[0], lasts, reason)
				return answer{value: d, table: func(w io.Writer) { row(w, d.Subject+" is denied "+denyEnd(d)) }}, err
			})(cmd, nil)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&lasts, "for", 0, "how long (default for good; of a certificate, 7h)")
	flags.StringVar(&reason, "reason", "", "why, for whoever asks later")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	flags.BoolVar(&dryRun, "dry-run", false, "only say what would happen")
	return cmd
}

// sayDenied is deny add --dry-run: the agent is asked what it would deny, and refuses what it would refuse.
func (a *app) sayDenied(cmd *cobra.Command, c *client.Client, what string, lasts time.Duration, reason, radius string) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), answerLimit)
	defer cancel()
	d, err := c.CheckDeny(ctx, what, lasts, reason)
	if err != nil {
		return err
	}
	value := map[string]any{"what": d.Subject, "locks_out": radius != "", "dry_run": true}
	return a.say(cmd, answer{value: value, table: func(w io.Writer) { row(w, cmp.Or(radius, d.Subject+" counts no more")) }})
}

const operatorPath = "/parley/operator/"

// denyRadius says whom a denial locks out who is needed to take it back, "" if nobody: whoever asks, or the last operator that may.
func (a *app) denyRadius(ctx context.Context, c *client.Client, what string) (string, error) {
	path := what
	if id, whole := strings.CutPrefix(what, "spiffe://"); whole {
		_, rest, _ := strings.Cut(id, "/")
		path = "/" + rest
	}
	name, isOperator := strings.CutPrefix(path, operatorPath)
	if !isOperator {
		return "", nil
	}
	if dir := a.identityDir(); dir != "" {
		if own, err := client.LoadIdentity(dir); err == nil && own.Name() == name {
			return name + " is the identity that this command uses: once it is denied, it cannot take that back", nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	operators, err := c.Operators(ctx)
	if err != nil {
		return "", err
	}
	denied, err := c.Denies(ctx)
	if err != nil {
		return "", err
	}
	return lastOperator(operators, denied, name), nil
}

// lastOperator says that an operator is the last one that may deny and let in again, "" if it is not.
func lastOperator(operators []client.OperatorInfo, denied []client.Deny, name string) string {
	mayDeny := func(o client.OperatorInfo) bool {
		return o.Role == "operator" && !slices.ContainsFunc(denied, func(d client.Deny) bool { return d.Subject == o.SPIFFEID })
	}
	last := false
	for _, o := range operators {
		switch {
		case !mayDeny(o):
		case o.Name != name:
			return ""
		default:
			last = true
		}
	}
	if !last {
		return ""
	}
	return name + " is the last operator with the role operator that is not denied: then only the admin socket of an agent's host can take that back"
}

func denyEnd(d client.Deny) string {
	if d.Until.IsZero() {
		return "for good"
	}
	return "until " + instant(d.Until)
}

func (a *app) denyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "What is denied: identities, certificates, and hosts that were evicted",
		Args:  takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			all, err := c.Denies(ctx)
			return answer{value: list(all), table: func(w io.Writer) {
				row(w, "KIND", "DENIED", "UNTIL", "SINCE", "BY", "REASON")
				for _, d := range all {
					until := "for good"
					if !d.Until.IsZero() {
						until = instant(d.Until)
					}
					row(w, d.Kind, d.Subject, until, instant(d.At), d.By, d.Reason)
				}
			}}, err
		}),
	}
}

func (a *app) denyRemoveCommand() *cobra.Command {
	cmd := a.removing(&cobra.Command{
		Use:   "remove WHAT",
		Short: "Let an identity or a certificate count again",
		Long: "It counts again wherever this has been heard, by the state or by gossip. A host that was evicted stays so: it is set up\n" +
			"anew.",
		Example: "  parley deny remove /svc/web --dry-run",
	}, removal{
		kind: "denial of",
		radius: func(ctx context.Context, c *client.Client, what string) (string, error) {
			_, err := c.Denies(ctx)
			return fmt.Sprintf("%s counts again on every agent, if it is denied", what), err
		},
		remove: func(ctx context.Context, c *client.Client, what string) error { return c.RemoveDeny(ctx, what) },
	})
	cmd.Args = takes("WHAT")
	return cmd
}
