package command

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) tokenCommand() *cobra.Command {
	cmd := group("token", "Tokens that let new agents join")
	cmd.AddCommand(a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
	return cmd
}

func (a *app) tokenCreateCommand() *cobra.Command {
	spec := client.TokenSpec{}
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a join token and print the commands that use it",
		Long: "A token lets an agent into the cluster, as often as --uses and as long as --ttl allow. It is shown once.\n" +
			"Treat it like a password until it is used up.",
		Example: "  parley token create --node web-1 --ttl 1h\n  (umask 077; parley token create --uses 3 -o raw > token)",
		Args:    takes(),

		Annotations: map[string]string{rawOutput: "yes"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if spec.TTL <= 0 || spec.Uses < 1 {
				return usageError("like --ttl 10m --uses 3", "a token needs a --ttl above 0 and at least 1 of --uses")
			}
			if !cmd.Flags().Changed("role") {
				spec.Role = "" // the agent knows what goes with --core
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				t, err := c.CreateToken(ctx, spec)
				return answer{value: t, raw: []byte(t.Token + "\n"), table: func(w io.Writer) { tokenInstructions(w, t) }}, err
			})(cmd, nil)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&spec.TTL, "ttl", 10*time.Minute, "how long the token can be used")
	flags.IntVar(&spec.Uses, "uses", 1, "how many agents may join with it")
	flags.StringVar(&spec.Node, "node", "", "the only name that may join with it")
	flags.StringVar(&spec.Role, "role", "discovery", "what the new agents may do through the cluster: none, discovery, local or operator; with --core it is operator")
	flags.BoolVar(&spec.Core, "core", false, "also allow them into the core, with the role operator")
	flags.StringVar(&spec.Replace, "replace", "", "a node whose name the new agent may take over")
	return cmd
}

// tokenInstructions shows what to paste on the new host: the token goes into a file first, because
// arguments can be seen by everybody there.
func tokenInstructions(w io.Writer, t client.TokenAnswer) {
	row(w, t.Token)
	row(w, fmt.Sprintf("\nOn the new host, before %s:\n", instant(t.ExpiresAt)))
	row(w, "  (umask 077; cat > parley.token <<'EOF'\n"+t.Token+"\nEOF\n  )")
	row(w, "  "+strings.Replace(t.JoinCommand, "TOKEN_FILE", "parley.token", 1))
}

func (a *app) tokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "The tokens that exist, without their secrets",
		Args:  takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			tokens, err := c.Tokens(ctx)
			return answer{value: list(tokens), table: func(w io.Writer) {
				row(w, "ID", "USES LEFT", "EXPIRES", "NODE", "ROLE", "CORE", "REVOKED")
				for _, t := range tokens {
					row(w, t.ID, strconv.Itoa(t.UsesLeft), instant(t.ExpiresAt), t.Node, t.Role, yesNo(t.Core), yesNo(t.Revoked))
				}
			}}, err
		}),
	}
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "End a token; agents that have joined with it stay",
		Args:  takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				err := c.RevokeToken(ctx, args[0])
				return answer{value: map[string]any{"id": args[0], "revoked": true}, table: func(w io.Writer) {
					row(w, "token "+args[0]+" is revoked")
				}}, err
			})(cmd, nil)
		},
	}
}
