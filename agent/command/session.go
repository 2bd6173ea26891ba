package command

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) sessionCommand() *cobra.Command {
	cmd := group("session", "Sessions, which hold the locks of keys")
	cmd.AddCommand(a.sessionCreateCommand(), a.sessionListCommand(), a.sessionRenewCommand(), a.sessionDestroyCommand())
	return cmd
}

func (a *app) sessionCreateCommand() *cobra.Command {
	var spec client.SessionSpec
	var delay time.Duration
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a session to hold locks with",
		Long: "A session takes the lock of a key by 'parley kv put KEY VALUE --session ID', and holds it until it is released\n" +
			"or the session ends: when it is destroyed, when it was not renewed for its --ttl, or, without one, when its node\n" +
			"is gone for a minute (session.node_grace).",
		Example: "  parley session create --name nightly-job --ttl 30s",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("lock-delay") {
				spec.LockDelay = &delay
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				s, err := c.CreateSession(ctx, spec)
				return answer{value: s, table: func(w io.Writer) { sessionFields(w, s) }}, err
			})(cmd, nil)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Name, "name", "", "what it is for, for people")
	flags.StringVar(&spec.Node, "node", "", "the node it is bound to (default this agent's)")
	flags.DurationVar(&spec.TTL, "ttl", 0, "how long it lives without a renewal, 1s to 24h (default as long as its node)")
	flags.StringVar(&spec.Behavior, "behavior", "release", "what happens to its keys when it ends: release or delete")
	flags.DurationVar(&delay, "lock-delay", 15*time.Second, "how long its keys cannot be locked after it ended, up to 1m")
	return cmd
}

func sessionFields(w io.Writer, s client.Session) {
	fields(w, "id", s.ID, "name", oneName(s.Name), "node", s.Node, "ttl", s.TTL, "lease", s.Lease, "behavior", s.Behavior,
		"lock delay", s.LockDelay, "created", instant(s.CreatedAt), "fencing token", s.FencingToken)
}

func (a *app) sessionListCommand() *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "The sessions that there are",
		Args:  takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			sessions, err := c.Sessions(ctx, node)
			return answer{value: list(sessions), table: func(w io.Writer) {
				row(w, "ID", "NODE", "TTL", "BEHAVIOR", "CREATED", "FENCING TOKEN", "NAME")
				for _, s := range sessions {
					row(w, s.ID, s.Node, s.TTL, s.Behavior, instant(s.CreatedAt), strconv.FormatUint(s.FencingToken, 10), oneName(s.Name))
				}
			}}, err
		}),
	}
	cmd.Flags().StringVar(&node, "node", "", "only those that are bound to this node")
	return cmd
}

func (a *app) sessionRenewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "renew ID",
		Short: "Count a session's time anew",
		Args:  takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				s, err := c.RenewSession(ctx, args[0])
				return answer{value: s, table: func(w io.Writer) { sessionFields(w, s) }}, err
			})(cmd, nil)
		},
	}
}

func (a *app) sessionDestroyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "destroy ID",
		Short: "End a session; its keys are released or deleted",
		Args:  takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				done, err := c.DestroySession(ctx, args[0])
				return answer{value: done, table: func(w io.Writer) { row(w, "session "+done.ID+" has ended") }}, err
			})(cmd, nil)
		},
	}
}
