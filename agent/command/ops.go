package command

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

// burnWindows are the columns of the table, shortest first.
var burnWindows = []string{"5m", "30m", "1h", "2h", "6h", "1d", "3d"}

func (a *app) sloCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "slo [NAME]",
		Short: "The objectives, and how fast their error budgets burn",
		Long: "The objectives as this agent measures them, since it was started. A burn rate of 1 uses up the budget\n" +
			"in exactly 30 days; - means that there is no data. With NAME the answer is that one alone.",
		Example: "  parley slo config-write --wait 15m --expect '.burn[\"5m\"] < 1'",
		Args:    takes("[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				slos, err := c.SLOs(ctx)
				if err != nil || len(args) == 0 {
					return answer{value: list(slos), table: func(w io.Writer) { sloTable(w, slos) }}, err
				}
				one, err := sloNamed(slos, args[0])
				return answer{value: one, table: func(w io.Writer) { sloTable(w, []client.SLO{one}) }}, err
			})(cmd, args)
		},
	}
}

func sloNamed(slos []client.SLO, name string) (client.SLO, error) {
	var names []string
	for _, s := range slos {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return client.SLO{}, usageError("there are: "+strings.Join(names, ", "), "no objective %q", name)
}

func sloTable(w io.Writer, slos []client.SLO) {
	head := []string{"NAME", "TARGET", "SLI", "BUDGET LEFT"}
	for _, window := range burnWindows {
		head = append(head, strings.ToUpper(window))
	}
	row(w, head...)
	for _, s := range slos {
		cells := []string{s.Name, percent(&s.Target), percent(s.SLI), percent(s.BudgetRemaining)}
		for _, window := range burnWindows {
			cells = append(cells, number(s.Burn[window]))
		}
		row(w, cells...)
	}
	for _, s := range slos {
		for _, id := range s.Firing {
			_, _ = fmt.Fprintf(w, "%s fires\n", id)
		}
	}
}

// percent and number show what has no data as nothing, which a table shows as -.
func percent(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(100**v, 'f', -1, 32) + "%"
}

func number(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'g', 3, 64)
}

func (a *app) alertsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "alerts",
		Short:   "Every alert of this agent and where it stands: ok, pending, firing or no_data",
		Example: "  parley alerts --expect 'all(.[]; .state != \"firing\")'",
		Args:    takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			alerts, err := c.Alerts(ctx)
			return answer{value: list(alerts), table: func(w io.Writer) { alertTable(w, alerts) }}, err
		}),
	}
}

func alertTable(w io.Writer, alerts []client.Alert) {
	row(w, "ALERT", "STATE", "SEVERITY", "VALUE", "SINCE", "RUNBOOK", "FIRES WHEN")
	for _, a := range alerts {
		row(w, a.ID, a.State, a.Severity, number(a.Value), instant(a.Since), a.Runbook, a.Summary)
	}
}

func (a *app) healthCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health",
		Short: "What this agent can do at the moment, and what it cannot",
		Args:  noSuchCommand,
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			h, err := c.Health(ctx)
			h.Capabilities = list(h.Capabilities)
			return answer{value: h, table: func(w io.Writer) { healthTable(w, h) }}, err
		}),
	}
	cmd.AddCommand(a.explainCommand())
	return cmd
}

func healthTable(w io.Writer, h client.Health) {
	row(w, "CAPABILITY", "WORKS", "DETAIL")
	for _, c := range h.Capabilities {
		row(w, c.Name, yesNo(c.OK), c.Detail)
	}
	_, _ = fmt.Fprintf(w, "ready: %s\n", yesNo(h.Ready))
}

func (a *app) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "explain",
		Short:   "What is wrong, the first thing to look at first, and what to run",
		Example: "  parley health explain --wait 1m --expect .healthy",
		Args:    takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			e, err := c.Explain(ctx)
			e.Causes = list(e.Causes)
			return answer{value: e, table: func(w io.Writer) { explanationText(w, e) }}, err
		}),
	}
}

func explanationText(w io.Writer, e client.Explanation) {
	if e.Healthy {
		_, _ = fmt.Fprintln(w, "nothing is wrong as far as this agent sees")
	}
	for _, c := range e.Causes {
		_, _ = fmt.Fprintf(w, "%d. %s: %s (%s)\n", c.Rank, c.Cause, c.Subject, c.Severity)
		for _, line := range c.Evidence {
			_, _ = fmt.Fprintf(w, "   %s\n", line)
		}
		_, _ = fmt.Fprintf(w, "   run: %s\n", c.Command)
		if c.Runbook != "" && !strings.Contains(c.Command, " run "+c.Runbook) {
			_, _ = fmt.Fprintf(w, "   runbook: parley runbook run %s\n", c.Runbook)
		}
	}
}
