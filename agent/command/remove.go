package command

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

// removal is how something that has a name is taken away.
type removal struct {
	kind string // of what has the name, like operator
	// radius says what is at stake, and fails for a name that there is not.
	radius func(ctx context.Context, c *client.Client, name string) (string, error)
	remove func(ctx context.Context, c *client.Client, name string) error
}

// removing completes a command that takes something away by its name: it says what is at stake, and asks before it does it.
func (a *app) removing(cmd *cobra.Command, r removal) *cobra.Command {
	var yes, dryRun bool
	cmd.Args = takes("NAME")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		c, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), answerLimit)
		radius, err := r.radius(ctx, c, name)
		cancel()
		if err != nil {
			return err
		}
		if dryRun {
			value := map[string]any{"name": name, "removed": false, "dry_run": true}
			return a.say(cmd, answer{value: value, table: func(w io.Writer) { row(w, radius) }})
		}
		if err := a.confirm(cmd.Context(), c, yes, radius); err != nil {
			return err
		}
		return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
			err := r.remove(ctx, c, name)
			return answer{value: map[string]any{"name": name, "removed": true}, table: func(w io.Writer) {
				row(w, r.kind+" "+name+" is removed")
			}}, err
		})(cmd, nil)
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would happen")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
