package command

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/agent"
	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
)

func (a *app) checkCommand() *cobra.Command {
	var pre bool
	var settings agentSettings
	cmd := &cobra.Command{
		Use:   "check",
		Short: "What is wrong with the agent on this host, or with --pre, what would be",
		Long: "Check asks the agent to examine itself and its cluster: certificate, leader, voters, zones, disk, file\n" +
			"modes, clock. With --pre it examines this host before an agent runs on it: data directory and its disk,\n" +
			"ports, clock, limits, a Consul beside it, and whether the addresses of --join can be reached. It takes\n" +
			"the flags that parley agent will get. It exits with 1 when a check fails, unless --expect decides.",
		Example: "  parley check\n  parley check --pre --join 10.0.0.1:8310\n  parley check -o json --expect .ok",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if pre {
				return a.precheck(cmd, settings)
			}
			if name := settings.given(cmd); name != "" {
				return usageError("add --pre; a running agent is asked, not configured", "--%s is for parley check --pre", name)
			}
			report := client.CheckReport{OK: true}
			err := a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				var err error
				report, err = c.Check(ctx)
				return answer{value: report, table: func(w io.Writer) { checkTable(w, report) }}, err
			})(cmd, nil)
			return a.verdict(orPrecheck(err), report)
		},
	}
	cmd.Flags().BoolVar(&pre, "pre", false, "examine this host before the install; no agent is asked")
	settings.register(cmd)
	return cmd
}

// orPrecheck tells who has no agent yet what there is for them.
func orPrecheck(err error) error {
	var unanswered *client.Error
	if !errors.As(err, &unanswered) || unanswered.Code != client.CodeNoAgent {
		return err
	}
	f := *explain(err)
	f.hint += "; parley check --pre examines a host before it has one"
	return &f
}

func (a *app) precheck(cmd *cobra.Command, settings agentSettings) error {
	cfg, err := a.load(cmd, settings)
	if err != nil {
		return err
	}
	defer a.patience("waiting for addresses of --join that do not answer")()
	found := agent.Precheck(cmd.Context(), cfg)
	report := client.CheckReport{OK: found.OK}
	for _, c := range found.Checks {
		report.Checks = append(report.Checks, client.CheckResult{
			ID: c.ID, Status: string(c.Status), Message: c.Message, Hint: c.Hint, Runbook: c.Runbook,
		})
	}
	err = a.say(cmd, answer{value: report, table: func(w io.Writer) { checkTable(w, report) }})
	return a.verdict(err, report)
}

// verdict makes the exit code: a failed check is a failure, unless --expect was there to decide.
func (a *app) verdict(err error, report client.CheckReport) error {
	failed := 0
	for _, c := range report.Checks {
		if c.Status == "fail" {
			failed++
		}
	}
	if err != nil || a.expect != "" || failed == 0 {
		return err
	}
	return &failure{code: exitFailed, err: fmt.Errorf("%d of %d checks failed", failed, len(report.Checks)),
		hint: "the lines above say what to do about each"}
}

func checkTable(w io.Writer, report client.CheckReport) {
	row(w, "STATUS", "CHECK", "MESSAGE")
	for _, c := range report.Checks {
		row(w, c.Status, c.ID, c.Message)
		if c.Hint != "" {
			_, _ = fmt.Fprintf(w, "\t\t  %s\n", c.Hint)
		}
		if c.Runbook != "" {
			_, _ = fmt.Fprintf(w, "\t\t  runbook: parley runbook show %s\n", c.Runbook)
		}
	}
}

// agentSettings are the flags that make a configuration: a file, keys with a flag of their own, any key.
type agentSettings struct {
	file string
	set  []string
}

func (s *agentSettings) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.file, "config", "", "configuration file; 'parley config default' prints one")
	flags.StringArrayVar(&s.set, "set", nil, "any key of the configuration, as key=value; may be repeated")
	for _, f := range agentFlags {
		flags.String(f.flag, "", f.help)
	}
}

// given names one of these flags that was used, "" when none was.
func (s *agentSettings) given(cmd *cobra.Command) string {
	names := []string{"config", "set"}
	for _, f := range agentFlags {
		names = append(names, f.flag)
	}
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			return name
		}
	}
	return ""
}

func (a *app) load(cmd *cobra.Command, s agentSettings) (config.Config, error) {
	overrides, err := a.overrides(cmd, s.set)
	if err != nil {
		return config.Config{}, err
	}
	return config.Load(s.file, overrides...)
}
