package command

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) invariantCommand() *cobra.Command {
	cmd := group("invariant", "What must always hold, watched while the core works")
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "What this agent's core member watches, and whether it held since its start",
		Long: "Each line is a promise of the algorithm. One that did not hold means that this program, the library below it, or\n" +
			"a machine of the core is wrong. Outside the core nothing is watched.",
		Example: "  parley invariant list --expect '.count==0'",
		Args:    takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			found, err := c.Invariants(ctx)
			return answer{value: found, table: func(w io.Writer) { invariantTable(w, found) }}, err
		}),
	})
	return cmd
}

func invariantTable(w io.Writer, found client.InvariantReport) {
	if len(found.Invariants) == 0 {
		row(w, "this agent is outside the core and watches nothing")
		return
	}
	row(w, "INVARIANT", "HOLDS", "VIOLATIONS", "WHAT", "SEEN LAST")
	for _, i := range found.Invariants {
		row(w, i.ID, yesNo(i.Holds), fmt.Sprint(i.Violations), i.What, orDash(i.Detail))
	}
}
