package command

import (
	"context"
	"fmt"
	"io"
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
	cmd := &cobra.Command{
		Use:   "add WHAT",
		Short: "Deny the identity of a program or an operator, or one certificate",
		Long: "WHAT is a SPIFFE ID or its path, such as /svc/web or /parley/operator/eve, or the serial number of a certificate in\n" +
			"hex. Every agent refuses what is denied, in the handshake and on connections that are open, within a second of the\n" +
			"commit; one that is cut off from the core, as soon as another agent tells it. A denied identity gets no certificate and no\n" +
			"token any more, and its tokens are refused by the agents' Workload API. Of a denied certificate the holder may get\n" +
			"another one, with another key: a program from its agent at once, an agent by the key of its host. An operator's key stays\n" +
			"the same: replace it with parley operator add --replace. Those who check certificates by themselves go by their end.\n\n" +
			"An identity is denied for good unless --for says how long; a certificate for 7 hours, longer than any lasts that the\n" +
			"cluster signs. An agent is shut out together with its host: parley evict.",
		Example: "  parley deny add /svc/web --reason 'key found in a log'\n" +
			"  parley deny add /parley/operator/eve --for 24h\n" +
			"  parley deny add 4f0c6e5d1b7a9e3f2d4c8b6a0f1e2d3c",
		Args: takes("WHAT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if lasts < 0 || lasts%time.Second != 0 {
				return usageError("like --for 24h", "a denial lasts a number of whole seconds, not %s", lasts)
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
	return cmd
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
