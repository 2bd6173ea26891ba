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
	exitUnknown    = 5                // a write that may or may not have happened
)

// do does a step according to its kind. An error ends the walk.
func (w *walk) do(ctx context.Context, s *Step, r *StepResult) error {
	switch {
	case s.Manual:
		return w.manual(ctx, s, r)
	case s.Kind.ReadOnly() && !w.skipped:
		return w.look(ctx, s, r)
	case s.Kind.ReadOnly() || w.DryRun:
		return w.leaveOut(ctx, s, r)
	}
	return w.change(ctx, s, r)
}

// manual shows what to do and waits until a person says that it is done.
func (w *walk) manual(ctx context.Context, s *Step, r *StepResult) error {
	text, err := w.fill(ctx, s.Text)
	if err != nil {
		return err
	}
	question, err := w.fill(ctx, s.Confirm)
	if err != nil {
		return err
	}
	w.Report.Begin(s, "")
	w.Report.Say(text)
	if w.DryRun {
		w.skipped = true
		return nil
	}
	if !w.confirmed(ctx, question) {
		return notConfirmed(s)
	}
	r.set(true)
	return nil
}

// leaveOut shows what a dry run does not execute.
func (w *walk) leaveOut(ctx context.Context, s *Step, r *StepResult) error {
	args, err := w.command(ctx, s.Run)
	if err != nil {
		return err
	}
	r.Command = paste(args, bind(s.Expect.JQ, w.values))
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
	args, err := w.command(ctx, s.DryRun)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Timeout))
	defer cancel()
	out := w.Execute(ctx, Call{Args: args, ReadOnly: true})
	w.Report.Say(fmt.Sprintf("%s (exit %d):\n%s", paste(args, ""), out.Exit, bytes.TrimSpace(slices.Concat(out.Stdout, out.Stderr))))
	return nil
}

// look runs a step that changes nothing.
func (w *walk) look(ctx context.Context, s *Step, r *StepResult) error {
	args, err := w.announce(ctx, s, r)
	if err == nil {
		w.execute(ctx, s, args, r)
	}
	return err
}

// change shows what it is about to do, looks at the guard, asks, and does it.
func (w *walk) change(ctx context.Context, s *Step, r *StepResult) error {
	args, err := w.announce(ctx, s, r)
	if err != nil {
		return err
	}
	if s.Guard != nil {
		guard := Step{ID: s.ID, Kind: Diagnose, Run: s.Guard.Run, Expect: s.Guard.Expect, Timeout: s.Timeout, Explain: "its guard"}
		var seen StepResult
		if err := w.look(ctx, &guard, &seen); err != nil {
			return err
		}
		if !seen.Passed() {
			return refusedError(fmt.Sprintf("the guard of the step %s does not hold: %s", s.ID, seen.Command))
		}
	}
	if err := w.preview(ctx, s); err != nil {
		return err
	}
	question, err := w.fill(ctx, s.Confirm)
	if err != nil {
		return err
	}
	w.Report.Say("risk: " + s.Risk)
	if !w.confirmed(ctx, question) {
		return notConfirmed(s)
	}
	w.execute(ctx, s, args, r)
	if *r.Exit == exitUnknown && s.Idempotent {
		w.Report.Say("nobody knows whether that was done; it may be done twice, so it is done again")
		w.execute(ctx, s, args, r)
	}
	return nil
}

func notConfirmed(s *Step) error {
	return refusedError("the step " + s.ID + " was not confirmed, stopped here")
}

func (w *walk) confirmed(ctx context.Context, question string) bool {
	return w.Confirm != nil && w.Confirm(ctx, question)
}

// announce makes the words of a step's command and shows it.
func (w *walk) announce(ctx context.Context, s *Step, r *StepResult) ([]string, error) {
	args, err := w.command(ctx, s.Run)
	if err != nil {
		return nil, err
	}
	if err := w.know(ctx, mentioned(s.Expect.JQ)); err != nil {
		return nil, err
	}
	r.Command = paste(args, bind(s.Expect.JQ, w.values))
	w.Report.Begin(s, r.Command)
	if w.run.NotThis {
		args = shortened(args)
	}
	if s.Expect.JQ != "" && slices.ContainsFunc(args, isWait) {
		args = append(args, "--expect", bind(s.Expect.JQ, w.values)) // so that the command knows what to wait for
	}
	return args, nil
}

// execute runs a command, holds the answer against what the step expects, and captures.
func (w *walk) execute(ctx context.Context, s *Step, args []string, r *StepResult) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Timeout))
	defer cancel()
	out := w.Execute(ctx, Call{Args: args, ReadOnly: s.Kind.ReadOnly()})
	r.Exit, r.Error = &out.Exit, strings.TrimSpace(string(out.Stderr))
	r.Output, r.answered = keep(out.Stdout)
	ok := out.Exit == s.Expect.Exit
	if ok && s.Expect.JQ != "" {
		result, err := evaluate(ctx, s.Expect.JQ, w.values, out.Stdout)
		if err != nil {
			r.answered, r.Error = false, fmt.Sprintf("jq %q: %v", s.Expect.JQ, err)
		}
		ok = err == nil && result != nil && result != false
	}
	r.set(ok)
	if r.answered {
		w.capture(ctx, s, r, out.Stdout)
	}
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

func (w *walk) fill(ctx context.Context, text string) (string, error) {
	names, err := placeholders(text)
	if err != nil {
		return "", err
	}
	if err := w.know(ctx, names); err != nil {
		return "", err
	}
	return fill(text, w.values)
}

func (w *walk) command(ctx context.Context, line string) ([]string, error) {
	if _, err := w.fill(ctx, line); err != nil {
		return nil, err
	}
	return command(line, w.values)
}

// know asks for variables that have no value yet. Names that are none of the runbook's are jq's own.
func (w *walk) know(ctx context.Context, names []string) error {
	for _, name := range names {
		if _, ok := w.values[name]; ok || !slices.Contains(w.book.names, name) {
			continue
		}
		if w.Ask == nil {
			return missingError(name)
		}
		value, ok := w.Ask(ctx, name)
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
