package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/runbook"
)

func (a *app) runbookRunCommand() *cobra.Command {
	var vars []string
	var o runbook.Options
	var yes bool
	cmd := &cobra.Command{
		Use:   "run ID",
		Short: "Walk through a runbook: find the cause, mend it, and see that it is gone",
		Long: "Run executes the steps of a runbook. Steps that look only read: the agent refuses them everything else.\n" +
			"Before a step that changes something it says the risk and asks. What only a person can do it shows, and\n" +
			"waits until it is done. It exits with 0 when the verify steps hold, and with 1 when they do not, or when\n" +
			"the runbook knows no more. A dry run that leaves something out ends unverified, with 0: it shows the way.",
		Example: "  parley runbook run server-down\n  parley runbook run server-down --from verify\n" +
			"  parley runbook run data-corruption --dry-run -o json",
		Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			book, err := findRunbook(args[0])
			if err != nil {
				return err
			}
			if o.Vars, err = parseVars(vars); err != nil {
				return err
			}
			return a.runRunbook(cmd, book, o, yes)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&vars, "var", nil, "the value of a variable, as node=a2; can be repeated")
	flags.StringVar(&o.From, "from", "", "begin at this step, or at the first verify step with --from verify")
	flags.BoolVar(&o.DryRun, "dry-run", false, "only look; show what would be changed")
	flags.BoolVar(&yes, "yes", false, "do not ask; what is for people is taken as done")
	return cmd
}

func parseVars(pairs []string) (map[string]string, error) {
	vars := make(map[string]string)
	for _, pair := range pairs {
		name, value, found := strings.Cut(pair, "=")
		if !found {
			return nil, usageError("like --var node=a2", "--var %q has no value", pair)
		}
		vars[name] = value
	}
	return vars, nil
}

func (a *app) runRunbook(cmd *cobra.Command, book *runbook.Runbook, o runbook.Options, yes bool) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	desk := &desk{in: bufio.NewReader(a.in), out: a.err, yes: yes, ask: isInputTerminal(a.in)}
	o.Execute, o.Confirm, o.Ask, o.Report = a.executor(cmd), desk.confirm, desk.value, desk
	run, err := book.Run(ctx, o)
	if err != nil {
		return usageError("`parley runbook show "+book.ID+"` has the steps and their variables", "%w", err)
	}
	run.Notes = a.stillFiring(ctx, o.Execute, run)
	if err := a.say(cmd, answer{value: run, table: func(w io.Writer) { runTable(w, run) }}); err != nil {
		return err
	}
	switch {
	case run.Refused:
		return &failure{code: exitDenied, err: errors.New(run.Reason),
			hint: "answer yes, or say --yes; --dry-run shows what would happen, --from goes on at a step"}
	case run.Result != runbook.Pass && run.Result != runbook.Unverified:
		return &failure{code: exitFailed, err: fmt.Errorf("%s: %s: %s", run.ID, run.Result, run.Reason),
			hint: "parley runbook show " + run.ID + " has the way on under Escalate"}
	}
	return nil
}

// stillFiring says of each alert of the runbook that fires at the end of a walk that found nothing wrong, or nothing
// more, why it still does: an objective goes on burning by its windows when the trouble is long over.
func (a *app) stillFiring(ctx context.Context, execute func(context.Context, runbook.Call) runbook.Outcome, run runbook.Run) []string {
	if run.Result != runbook.Pass {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var e client.Explanation
	out := execute(ctx, runbook.Call{Args: []string{"health", "explain"}, ReadOnly: true})
	if out.Exit != exitOK || json.Unmarshal(out.Stdout, &e) != nil {
		return nil // the walk has its result without
	}
	var notes []string
	for _, c := range e.Causes {
		if c.Runbook == run.ID && c.Cause == "alert" {
			notes = append(notes, fmt.Sprintf("%s: %s", c.Alert, strings.Join(c.Evidence, "; ")))
		}
	}
	return notes
}

// executor runs the commands of steps in this process, with the agent that this command was given.
func (a *app) executor(cmd *cobra.Command) func(context.Context, runbook.Call) runbook.Outcome {
	return func(ctx context.Context, call runbook.Call) runbook.Outcome {
		var out, problems bytes.Buffer
		step := &app{in: strings.NewReader(""), out: &out, err: &problems, getenv: a.getenv, readOnly: call.ReadOnly}
		code := step.run(ctx, append(a.sameAgent(cmd, call.Args), call.Args...))
		return runbook.Outcome{Exit: code, Stdout: out.Bytes(), Stderr: problems.Bytes()}
	}
}

// sameAgent are the flags that make a step ask the agent that this command would, unless it names another one.
func (a *app) sameAgent(cmd *cobra.Command, args []string) []string {
	flags := []string{"--output", "json"}
	for _, arg := range args {
		if name, _, _ := strings.Cut(arg, "="); name == "--addr" || name == "--data-dir" {
			return flags
		}
	}
	if a.addr != "" {
		flags = append(flags, "--addr", a.addr)
	}
	if cmd.Flags().Changed("data-dir") {
		flags = append(flags, "--data-dir", a.dataDir)
	}
	return flags
}

func runTable(w io.Writer, run runbook.Run) {
	row(w, "STEP", "KIND", "OK", "THEN")
	for _, s := range run.Steps {
		ok := "-"
		if s.OK != nil {
			ok = yesNo(*s.OK)
		}
		row(w, s.ID, string(s.Kind), ok, orDash(s.Branch))
	}
	verdict := string(run.Result)
	if run.NotThis {
		verdict += ", and the failure is not this one"
	}
	if run.Result == runbook.Unverified {
		verdict += " (" + run.Reason + ")"
	}
	row(w, "\n"+run.ID+": "+verdict)
	for _, note := range run.Notes {
		row(w, note)
	}
}

// desk is the person in front of the terminal: it shows the walk and asks.
type desk struct {
	in  *bufio.Reader
	out io.Writer
	yes bool // to every question
	ask bool // somebody can type a value
	n   int  // steps that have begun
}

// Begin is of runbook.Reporter.
func (d *desk) Begin(s *runbook.Step, command string) {
	d.n++
	_, _ = fmt.Fprintf(d.out, "\n%d. %s (%s): %s\n", d.n, s.ID, s.Kind, s.Explain)
	if command != "" {
		_, _ = fmt.Fprintf(d.out, "   $ %s\n", command)
	}
}

// Say is of runbook.Reporter.
func (d *desk) Say(text string) {
	for line := range strings.Lines(strings.TrimSpace(text)) {
		_, _ = fmt.Fprintf(d.out, "   %s\n", oneName(strings.TrimRight(line, "\n")))
	}
}

// End is of runbook.Reporter.
func (d *desk) End(r runbook.StepResult) {
	if r.Error != "" {
		d.Say(r.Error)
	}
	if r.Branch == "" {
		return // the walk stopped here, and the error says why
	}
	verdict := "not as expected"
	switch {
	case r.OK == nil:
		verdict = "left out"
	case r.Passed() && r.Exit == nil && d.yes:
		verdict = "taken as done"
	case r.Passed() && r.Exit == nil:
		verdict = "done"
	case r.Passed():
		verdict = "as expected"
	case r.Exit != nil && *r.Exit != exitOK && *r.Exit != exitExpectFalse:
		verdict = "not as expected (exit " + strconv.Itoa(*r.Exit) + ")"
	}
	d.Say(verdict + ", go to " + r.Branch)
}

func (d *desk) confirm(ctx context.Context, question string) bool {
	_, _ = fmt.Fprintf(d.out, "   %s [y/N] ", question)
	if d.yes {
		_, _ = fmt.Fprintln(d.out, "yes, by --yes")
		return true
	}
	typed := strings.ToLower(d.line(ctx))
	return typed == "y" || typed == "yes"
}

func (d *desk) value(ctx context.Context, variable string) (string, bool) {
	if !d.ask {
		return "", false
	}
	_, _ = fmt.Fprintf(d.out, "   %s = ", variable)
	typed := d.line(ctx)
	return typed, typed != ""
}

// line is what somebody types, "" at the end of the input or of ctx.
func (d *desk) line(ctx context.Context) string {
	typed := make(chan string, 1)
	go func() { // a read cannot be interrupted: after ctx it waits on, until the process ends
		line, _ := d.in.ReadString('\n')
		typed <- line
	}()
	select {
	case line := <-typed:
		return strings.TrimSpace(line)
	case <-ctx.Done():
		return ""
	}
}
