package runbook

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// askInputs settles before the first step what no step can find out: it asks for it where somebody can answer, and
// says how to give it where nobody can. A walk whose steps do not come to where it is needed goes on without.
func (w *walk) askInputs(ctx context.Context, start int) {
	for _, name := range w.book.inputs {
		s := w.book.firstUse(start, name)
		if _, given := w.values[name]; given || s == nil {
			continue
		}
		w.Report.Say(fmt.Sprintf("the step %s needs %q, which no step finds out: %s", s.ID, name, s.Explain))
		if w.Ask != nil {
			if value, ok := w.Ask(ctx, name); ok && CheckValue(value) == nil {
				w.values[name] = value
				continue
			}
		}
		w.Report.Say("without it the walk stops there; to give it: " + w.again(w.From, name))
	}
}

// firstUse is the first step from start on, in the order of the walk's edges, that needs a variable.
func (b *Runbook) firstUse(start int, name string) *Step {
	seen := make([]bool, len(b.Steps))
	for queue := []int{start}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at < 0 || seen[at] {
			continue
		}
		seen[at] = true
		if slices.Contains(b.Steps[at].needs(), name) {
			return &b.Steps[at]
		}
		for _, to := range b.edges[at] {
			queue = append(queue, to.step)
		}
	}
	return nil
}

// needs are the variables that a step mentions. Parse has read these texts, so that they can be read.
func (s *Step) needs() []string {
	texts := []string{s.Run, s.Text, s.Confirm, s.DryRun}
	names := mentioned(s.Expect.JQ)
	if s.Guard != nil {
		texts, names = append(texts, s.Guard.Run), append(names, mentioned(s.Guard.Expect.JQ)...)
	}
	for _, text := range texts {
		found, _ := placeholders(text)
		names = append(names, found...)
	}
	return names
}

// again is the command that runs the book from a step, with a place for the value that is missing.
func (w *walk) again(from, missing string) string {
	words := []string{program, "runbook", "run", w.book.ID}
	if from != "" {
		words = append(words, "--from", from)
	}
	for _, name := range slices.Sorted(maps.Keys(w.values)) {
		words = append(words, "--var", quote(name+"="+w.values[name]))
	}
	return strings.Join(append(words, "--var", missing+"=VALUE"), " ")
}
