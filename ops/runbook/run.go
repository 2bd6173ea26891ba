package runbook

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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
	// Confirm asks a question before something is changed; nil answers no. It takes as long as people need.
	Confirm func(ctx context.Context, question string) bool
	// Ask asks for the value of a variable that nothing set; nil knows none.
	Ask func(ctx context.Context, variable string) (string, bool)
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
	w.askInputs(ctx, start)
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
	err := w.do(ctx, s, &r)
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted at the step %s", s.ID)
	}
	if err != nil {
		w.stop(s, err)
		r.set(false)
		r.Error = w.run.Reason
		w.end(r)
		return -1
	}
	bad := r.OK != nil && !*r.OK // what was left out goes on as if it were done
	to := w.book.edges[at][0]
	if bad {
		to = w.book.edges[at][1]
	}
	if bad && !r.answered && (s.Expect.JQ != "" || to.word == wordNot) {
		to = target{word: wordEscalate, step: -1} // silence is no answer, neither good nor bad
		w.Report.Say("there was no answer to judge by")
	}
	r.Branch = to.word
	if to.step >= 0 && to.word != wordNot {
		r.Branch = w.book.Steps[to.step].ID
	}
	w.run.NotThis = w.run.NotThis || to.word == wordNot
	switch to.word {
	case wordDone:
		w.run.Result = Pass
		if w.skipped {
			w.run.Result, w.run.Reason = Unverified, "dry run: nothing was changed, so nothing was verified"
		}
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
func (w *walk) stop(s *Step, err error) {
	w.run.Result, w.run.Reason = Fail, err.Error()
	var refused refusedError
	w.run.Refused = errors.As(err, &refused)
	var missing missingError
	if errors.As(err, &missing) {
		w.run.Reason += ": go on with " + w.again(s.ID, string(missing))
	}
}
