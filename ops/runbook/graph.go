package runbook

import (
	"fmt"
	"slices"
	"strings"
)

// The words that on_pass and on_fail take beside the id of a step.
const (
	wordNext     = "next"             // the step behind this one, of the same kind
	wordVerify   = "verify"           // the first verify step
	wordDone     = "done"             // the failure is gone
	wordEscalate = "escalate"         // call the owner
	wordNot      = "not-this-runbook" // the failure is another one; the verify steps have the last word
)

var words = []string{wordNext, wordVerify, wordDone, wordEscalate, wordNot}

// target is where a branch leads: to a step, or out of the runbook.
type target struct {
	word string // as it was written
	step int    // -1: out
}

// graph resolves every branch and shows that each walk ends and that each step can be walked on.
func (p *parser) graph() {
	b := p.book
	first := make(map[Kind]int)
	for i := len(b.Steps) - 1; i >= 0; i-- {
		first[b.Steps[i].Kind] = i
	}
	_, diagnoses := first[Diagnose]
	verify, verifies := first[Verify]
	if !diagnoses || !verifies {
		p.fail(1, "a runbook needs a diagnose and a verify step at least")
		return
	}
	saysNot := false
	for i := range b.Steps {
		s := &b.Steps[i]
		var both [2]target
		for j, word := range []string{s.OnPass, s.OnFail} {
			step, err := b.resolve(i, word, verify)
			if err != nil {
				p.fail(s.line, "step %s leads to %q: %v", s.ID, word, err)
			}
			both[j] = target{word: word, step: step}
			saysNot = saysNot || word == wordNot
		}
		b.edges = append(b.edges, both)
	}
	if !saysNot {
		p.fail(1, "no diagnose step leads to %s: say what shows that the failure is another one", wordNot)
	}
	if len(p.problems) == 0 {
		p.walks(first[Diagnose])
	}
}

func (b *Runbook) resolve(from int, word string, verify int) (int, error) {
	s := &b.Steps[from]
	switch word {
	case wordNext:
		if from+1 == len(b.Steps) || b.Steps[from+1].Kind != s.Kind {
			return -1, fmt.Errorf("it is the last %s step", s.Kind)
		}
		return from + 1, nil
	case wordVerify:
		return verify, nil
	case wordNot:
		if s.Kind != Diagnose {
			return -1, fmt.Errorf("only a diagnose step can say that")
		}
		return verify, nil
	case wordDone:
		if s.Kind != Verify && s.Kind != Rollback {
			return -1, fmt.Errorf("only a verify or rollback step can say that")
		}
		return -1, nil
	case wordEscalate:
		return -1, nil
	}
	if to, ok := b.byID[word]; ok {
		return to, nil
	}
	return -1, fmt.Errorf("that is no step of this runbook, nor %s", strings.Join(words, ", "))
}

// walks looks for circles, and for steps that no walk reaches. A rollback step is also reached by the step that it
// takes back.
func (p *parser) walks(start int) {
	const (
		unseen = iota
		onPath
		finished
	)
	b := p.book
	state := make([]int, len(b.Steps))
	var path []string
	var visit func(int)
	visit = func(i int) {
		if state[i] == finished || len(p.problems) > 0 {
			return
		}
		path = append(path, b.Steps[i].ID)
		defer func() { path = path[:len(path)-1] }()
		if state[i] == onPath {
			circle := path[slices.Index(path, b.Steps[i].ID):]
			p.fail(b.Steps[i].line, "the steps go round in a circle: %s. Wait with --wait instead", strings.Join(circle, " -> "))
			return
		}
		state[i] = onPath
		for _, to := range b.edges[i] {
			if to.step >= 0 {
				visit(to.step)
			}
		}
		state[i] = finished
	}
	visit(start)
	for i := range b.Steps {
		if back, ok := b.byID[b.Steps[i].Rollback]; ok && state[i] == finished {
			visit(back)
		}
	}
	for i := range b.Steps {
		if state[i] == unseen && len(p.problems) == 0 {
			p.fail(b.Steps[i].line, "no walk reaches the step %s: lead to it or leave it out", b.Steps[i].ID)
		}
	}
}
