package runbook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	maxOutputBytes = 64 << 10         // of an answer that is kept in the result
	lookAgain      = 10 * time.Second // what a verify step waits when nothing was done that it could wait for
	exitFalse      = 2                // a false --expect
	exitUnknown    = 5                // a write that may or may not have happened
)

// Call is a command to execute: the words behind `parley`, and whether it must not change anything.
type Call struct {
	Args     []string
	ReadOnly bool
}

// Outcome is how it ended.
type Outcome struct {
	Exit           int
	Stdout, Stderr []byte
}

// Options of a walk. Execute is needed; it has to end with its context, and to add what makes the command print JSON.
type Options struct {
	Execute func(context.Context, Call) Outcome
	// Confirm asks a question before something is changed; nil answers no.
	Confirm func(question string) bool
	// Ask asks for the value of a variable that nothing set; nil knows none.
	Ask func(variable string) (string, bool)
	// Report watches; nil does not.
	Report Reporter
	// Vars are values of variables. They win over what steps capture.
	Vars map[string]string
	// From is the step to begin at, or a kind, whose first one it is then; empty is the first diagnose step.
	From string
	// DryRun executes what reads only, and shows the rest.
	DryRun bool
}

// Run walks the runbook. The error is about the options; how the walk went is in the Run.
func (b *Runbook) Run(ctx context.Context, o Options) (Run, error) {
	start, err := b.start(o.From)
	if err != nil {
		return Run{}, err
	}
	if err := b.checkVars(o.Vars); err != nil {
		return Run{}, err
	}
	if o.Report == nil {
		o.Report = silent{}
	}
	w := &walk{book: b, Options: o, values: make(map[string]string), run: Run{ID: b.ID, DryRun: o.DryRun}}
	maps.Copy(w.values, o.Vars)
	for at := start; at >= 0; {
		at = w.take(ctx, at)
	}
	return w.run, nil
}

func (b *Runbook) start(from string) (int, error) {
	if from == "" {
		from = string(Diagnose)
	}
	for i := range b.Steps {
		if s := &b.Steps[i]; from == s.ID || from == string(s.Kind) {
			return i, nil
		}
	}
	var ids []string
	for i := range b.Steps {
		ids = append(ids, b.Steps[i].ID)
	}
	return 0, fmt.Errorf("the runbook %s has no step %q; it has %s", b.ID, from, strings.Join(ids, ", "))
}

func (b *Runbook) checkVars(vars map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if !slices.Contains(b.names, name) {
			return fmt.Errorf("the runbook %s has no variable %q; it has: %s", b.ID, name, strings.Join(b.names, ", "))
		}
		if err := CheckValue(vars[name]); err != nil {
			return fmt.Errorf("variable %s: %w", name, err)
		}
	}
	return nil
}

// walk is one Run.
type walk struct {
	Options
	book   *Runbook
	values map[string]string // of variables
	run    Run
	// skipped: a step that changes something was left out by DryRun, so that what follows has nothing to see.
	skipped bool
}

// take does one step and returns the next one, -1 at the end.
func (w *walk) take(ctx context.Context, at int) int {
	s := &w.book.Steps[at]
	r := StepResult{ID: s.ID, Kind: s.Kind}
	limited, cancel := context.WithTimeout(ctx, time.Duration(s.Timeout))
	defer cancel()
	err := w.do(limited, s, &r)
	if ctx.Err() != nil { // whoever started the walk has gone; the step's own time is another matter
		err = fmt.Errorf("interrupted at the step %s", s.ID)
	}
	if err != nil {
		w.stop(err)
		r.Error = err.Error()
		w.end(r)
		return -1
	}
	to := w.book.edges[at][0]
	if !r.OK {
		to = w.book.edges[at][1]
	}
	if to.word == wordNot && !r.answered {
		to = target{word: wordEscalate, step: -1}
		w.Report.Say("without an answer nobody can say that this is another failure")
	}
	r.Branch = to.word
	if to.step >= 0 && to.word != wordNot {
		r.Branch = w.book.Steps[to.step].ID
	}
	w.run.NotThis = w.run.NotThis || to.word == wordNot
	switch to.word {
	case wordDone:
		w.run.Result = Pass
	case wordEscalate:
		w.run.Result, w.run.Reason = Escalate, w.escalation(s)
	}
	w.end(r)
	return to.step
}

func (w *walk) escalation(s *Step) string {
	if w.run.NotThis {
		return fmt.Sprintf("this is another failure, and yet the step %s is not as it should be: look at the runbooks %s",
			s.ID, strings.Join(w.book.Related, ", "))
	}
	return fmt.Sprintf("the runbook knows nothing more to do after the step %s: %s", s.ID, w.book.Owner.Escalate)
}

func (w *walk) end(r StepResult) {
	w.run.Steps = append(w.run.Steps, r)
	w.Report.End(r)
}

// refusedError is a no of a person or of a guard.
type refusedError string

func (e refusedError) Error() string { return string(e) }

// stop ends the walk where it stands.
func (w *walk) stop(err error) {
	w.run.Result, w.run.Reason = Fail, err.Error()
	var refused refusedError
	w.run.Refused = errors.As(err, &refused)
	var missing missingError
	if errors.As(err, &missing) {
		w.run.Reason += fmt.Sprintf(": give it with --var %s=VALUE", string(missing))
	}
}

// do does a step according to its kind. An error ends the walk.
func (w *walk) do(ctx context.Context, s *Step, r *StepResult) error {
	switch {
	case s.Manual:
		return w.manual(s, r)
	case s.Kind.ReadOnly() && !w.skipped:
		return w.execute(ctx, s, r)
	case s.Kind.ReadOnly() || w.DryRun:
		return w.leaveOut(ctx, s, r)
	}
	return w.change(ctx, s, r)
}

// manual shows what to do and waits until a person says that it is done.
func (w *walk) manual(s *Step, r *StepResult) error {
	text, err := w.fill(s.Text)
	if err != nil {
		return err
	}
	question, err := w.fill(s.Confirm)
	if err != nil {
		return err
	}
	w.Report.Begin(s, "")
	w.Report.Say(text)
	r.OK = true
	if w.DryRun {
		w.skipped = true
		return nil
	}
	if !w.confirmed(question) {
		return refusedError("nobody said that the step " + s.ID + " is done")
	}
	return nil
}

// leaveOut shows what a dry run does not execute.
func (w *walk) leaveOut(ctx context.Context, s *Step, r *StepResult) error {
	args, err := w.command(s.Run)
	if err != nil {
		return err
	}
	r.Command, r.OK = paste(args, bind(s.Expect.JQ, w.values)), true
	w.Report.Begin(s, r.Command)
	if !s.Kind.ReadOnly() {
		w.skipped = true
		w.Report.Say("dry run: this would change something and is not executed")
		return w.preview(ctx, s)
	}
	w.Report.Say("dry run: not executed, because the steps before it were not")
	return nil
}

// preview shows what a step is going to do, where it can say.
func (w *walk) preview(ctx context.Context, s *Step) error {
	if s.DryRun == "" {
		return nil
	}
	args, err := w.command(s.DryRun)
	if err != nil {
		return err
	}
	out := w.Execute(ctx, Call{Args: args, ReadOnly: true})
	w.Report.Say(fmt.Sprintf("%s (exit %d):\n%s", paste(args, ""), out.Exit, bytes.TrimSpace(slices.Concat(out.Stdout, out.Stderr))))
	return nil
}

// change looks at the guard, asks, and does it.
func (w *walk) change(ctx context.Context, s *Step, r *StepResult) error {
	if s.Guard != nil {
		guard := Step{ID: s.ID, Kind: Diagnose, Run: s.Guard.Run, Expect: s.Guard.Expect}
		var seen StepResult
		if err := w.execute(ctx, &guard, &seen); err != nil {
			return err
		}
		if !seen.OK {
			return refusedError(fmt.Sprintf("the guard of the step %s does not hold: %s", s.ID, seen.Command))
		}
	}
	if err := w.preview(ctx, s); err != nil {
		return err
	}
	question, err := w.fill(s.Confirm)
	if err != nil {
		return err
	}
	w.Report.Say("risk: " + s.Risk)
	if !w.confirmed(question) {
		return refusedError("the step " + s.ID + " was not confirmed")
	}
	if err := w.execute(ctx, s, r); err != nil {
		return err
	}
	if *r.Exit == exitUnknown && s.Idempotent {
		w.Report.Say("nobody knows whether that was done; it may be done twice, so it is done again")
		return w.execute(ctx, s, r)
	}
	return nil
}

func (w *walk) confirmed(question string) bool { return w.Confirm != nil && w.Confirm(question) }

// execute runs a step's command, holds the answer against what is expected, and captures.
func (w *walk) execute(ctx context.Context, s *Step, r *StepResult) error {
	args, err := w.command(s.Run)
	if err != nil {
		return err
	}
	if err := w.know(mentioned(s.Expect.JQ)); err != nil {
		return err
	}
	r.Command = paste(args, bind(s.Expect.JQ, w.values))
	w.Report.Begin(s, r.Command)
	if w.run.NotThis {
		args = shortened(args)
	}
	if s.Expect.JQ != "" && slices.ContainsFunc(args, isWait) {
		args = append(args, "--expect", bind(s.Expect.JQ, w.values)) // so that the command knows what to wait for
	}
	out := w.Execute(ctx, Call{Args: args, ReadOnly: s.Kind.ReadOnly()})
	r.Exit, r.Error = &out.Exit, strings.TrimSpace(string(out.Stderr))
	r.Output, r.answered = keep(out.Stdout)
	r.OK = out.Exit == s.Expect.Exit
	if r.OK && s.Expect.JQ != "" {
		result, err := evaluate(ctx, s.Expect.JQ, w.values, out.Stdout)
		if err != nil {
			r.answered, r.Error = false, fmt.Sprintf("jq %q: %v", s.Expect.JQ, err)
		}
		r.OK = err == nil && result != nil && result != false
	}
	if r.answered {
		w.capture(ctx, s, r, out.Stdout)
	}
	return nil
}

// shortened cuts --wait down: who was told that this is another failure does not wait for the end of this one.
func shortened(args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		switch {
		case waitOf(args) <= Duration(lookAgain):
		case arg == "--wait":
			args[i+1] = lookAgain.String()
		case isWait(arg):
			args[i] = "--wait=" + lookAgain.String()
		}
	}
	return args
}

// keep is the part of an answer that goes into the result, and whether there was one.
func keep(text []byte) (any, bool) {
	switch {
	case !json.Valid(text):
		return nil, false
	case len(text) > maxOutputBytes:
		return fmt.Sprintf("%d bytes, too many to keep", len(text)), true
	}
	return json.RawMessage(text), true
}

// capture sets variables. A program without a result sets nothing; the step that needs the variable says so.
func (w *walk) capture(ctx context.Context, s *Step, r *StepResult, text []byte) {
	for _, name := range slices.Sorted(maps.Keys(s.Capture)) {
		if _, given := w.Vars[name]; given {
			continue
		}
		result, err := evaluate(ctx, s.Capture[name], w.values, text)
		value, ok := "", false
		if err == nil {
			value, ok, err = asValue(result)
		}
		if err != nil {
			r.Error = fmt.Sprintf("capture %s: %v", name, err)
		}
		if ok {
			w.values[name] = value
		}
	}
}

// evaluate runs a program on a JSON text and returns the last result, nil if there is none. A program that does not
// end by itself ends with ctx.
func evaluate(ctx context.Context, program string, values map[string]string, text []byte) (any, error) {
	code, err := compile(program, values)
	if err != nil {
		return nil, err
	}
	var input any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // an index may not fit into a float64
	if err := d.Decode(&input); err != nil {
		return nil, errors.New("the answer is not JSON")
	}
	var last any
	for results := code.RunWithContext(ctx, input); ; {
		result, more := results.Next()
		if !more {
			return last, nil
		}
		if err, failed := result.(error); failed {
			return nil, err
		}
		last = result
	}
}

func (w *walk) fill(text string) (string, error) {
	names, err := placeholders(text)
	if err != nil {
		return "", err
	}
	if err := w.know(names); err != nil {
		return "", err
	}
	return fill(text, w.values)
}

func (w *walk) command(line string) ([]string, error) {
	if _, err := w.fill(line); err != nil {
		return nil, err
	}
	return command(line, w.values)
}

// know asks for variables that have no value yet. Names that are none of the runbook's are jq's own.
func (w *walk) know(names []string) error {
	for _, name := range names {
		if _, ok := w.values[name]; ok || !slices.Contains(w.book.names, name) {
			continue
		}
		if w.Ask == nil {
			return missingError(name)
		}
		value, ok := w.Ask(name)
		if !ok {
			return missingError(name)
		}
		if err := CheckValue(value); err != nil {
			return fmt.Errorf("variable %s: %w", name, err)
		}
		w.values[name] = value
	}
	return nil
}

// paste is a command as one types it, with the expectation that the step has.
func paste(args []string, jq string) string {
	quoted := []string{program}
	for _, arg := range args {
		quoted = append(quoted, quote(arg))
	}
	if jq != "" {
		quoted = append(quoted, "--expect", quote(jq))
	}
	return strings.Join(quoted, " ")
}

func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, shellOnly+" '\"{}") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// silent reports to nobody.
type silent struct{}

func (silent) Begin(*Step, string) {}
func (silent) Say(string)          {}
func (silent) End(StepResult)      {}
