package command

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

// maxListed is how many keys a blast radius names.
const maxListed = 10

// deletion is the JSON of `parley kv delete`.
type deletion struct {
	Key      string   `json:"key"`
	Revision uint64   `json:"revision"`
	Deleted  uint64   `json:"deleted"`
	DryRun   bool     `json:"dry_run"`
	Keys     []string `json:"keys,omitempty"` // what a dry run would delete
}

func (a *app) kvDeleteCommand() *cobra.Command {
	var cas uint64
	var prefix, yes, dryRun bool
	var request string
	cmd := &cobra.Command{
		Use:   "delete KEY",
		Short: "Delete a key, or with --prefix all keys that begin with it",
		Example: "  parley kv delete greeting\n  parley kv delete greeting --cas 12   # only if its revision is still 12\n" +
			"  parley kv delete web/ --prefix --dry-run",
		Args: takes("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var compare *uint64
			if cmd.Flags().Changed("cas") {
				compare = &cas
			}
			if compare != nil && prefix {
				return usageError("leave one of them out", "--cas compares one key, --prefix means many")
			}
			if request != "" && prefix {
				return usageError("leave --request-id out: to delete what is gone does nothing", "--request-id and --prefix together")
			}
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if prefix || dryRun {
				keys, err := affected(cmd.Context(), c, args[0], prefix)
				if err != nil {
					return err
				}
				if dryRun {
					return a.say(cmd, dryRunOf(args[0], keys))
				}
				if err := a.confirm(cmd.Context(), c, yes, blastRadius(keys)); err != nil {
					return err
				}
			}
			return a.ask(cmd, mayRepeat, func(ctx context.Context) (answer, error) {
				done, err := remove(ctx, c, args[0], prefix, client.DeleteOptions{CAS: compare, RequestID: request})
				return answer{value: done, table: func(w io.Writer) {
					row(w, fmt.Sprintf("deleted %s at revision %d", plural(int(done.Deleted), "key"), done.Revision))
				}}, err
			})
		},
	}
	flags := cmd.Flags()
	requestIDFlag(cmd, &request)
	flags.Uint64Var(&cas, "cas", 0, "only if the key's revision is this")
	flags.BoolVar(&prefix, "prefix", false, "delete all keys that begin with KEY")
	flags.BoolVar(&dryRun, "dry-run", false, "only say what would be deleted")
	flags.BoolVar(&yes, "yes", false, "do not ask before --prefix deletes")
	return cmd
}

func remove(ctx context.Context, c *client.Client, key string, prefix bool, o client.DeleteOptions) (deletion, error) {
	if prefix {
		done, err := c.DeletePrefix(ctx, key)
		return deletion{Key: key, Revision: done.Revision, Deleted: done.Deleted}, err
	}
	done, err := c.Delete(ctx, key, o)
	return deletion{Key: key, Revision: done.Revision, Deleted: done.Deleted}, err
}

// affected lists what a delete would remove.
func affected(ctx context.Context, c *client.Client, key string, prefix bool) ([]string, error) {
	if prefix {
		return c.Keys(ctx, key, client.ListOptions{})
	}
	_, err := c.Get(ctx, key, client.ReadOptions{})
	switch {
	case isNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return []string{key}, nil
}

func dryRunOf(key string, keys []string) answer {
	return answer{
		value: deletion{Key: key, DryRun: true, Keys: list(keys)},
		table: func(w io.Writer) { row(w, blastRadius(keys)) },
	}
}

// blastRadius says what is at stake before it is too late.
func blastRadius(keys []string) string {
	text := "this deletes " + plural(len(keys), "key")
	for i, k := range keys {
		if i == maxListed {
			return text + fmt.Sprintf("\n  ... and %d more", len(keys)-maxListed)
		}
		text += "\n  " + oneName(k)
	}
	return text
}

// confirm shows the blast radius and wants the cluster's name typed, its trust domain, unless --yes said
// it beforehand.
func (a *app) confirm(ctx context.Context, c *client.Client, yes bool, radius string) error {
	if yes {
		return nil
	}
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	return a.confirmName(false, radius, status.TrustDomain)
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
