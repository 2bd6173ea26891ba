package config

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Key     string // the key or flag; empty when the file as a whole is meant
	Message string
	Hint    string // what to do, when the message does not say it already
}

func (p Problem) String() string {
	if p.Key == "" {
		return p.Message
	}
	return p.Key + ": " + p.Message
}

// ProblemsError carries everything that is wrong with a configuration. Load and Validate return it.
type ProblemsError struct {
	Path     string // the file; empty when there was none
	Problems []Problem
}

func (e *ProblemsError) Error() string {
	what := e.Path
	switch {
	case what == "" && len(e.Problems) == 1:
		return e.Problems[0].String()
	case what == "":
		what = "the configuration"
	case len(e.Problems) == 1:
		return what + ": " + e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s has %d problems", what, len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// Hint returns the advice of all problems, each once. Where there are several it names the key.
func (e *ProblemsError) Hint() string {
	var hints, seen []string
	for _, p := range e.Problems {
		if p.Hint == "" || slices.Contains(seen, p.Hint) {
			continue
		}
		seen = append(seen, p.Hint)
		if p.Key != "" && len(e.Problems) > 1 {
			p.Hint = p.Key + ": " + p.Hint
		}
		hints = append(hints, p.Hint)
	}
	return strings.Join(hints, "; ")
}

// problems collects. names maps a key to the flag that set it, so that a complaint about the value names
// what the user typed.
type problems struct {
	path  string
	names map[string]string
	list  []Problem
}

func (p *problems) add(problem Problem) {
	if name, ok := p.names[problem.Key]; ok {
		problem.Key = name
	}
	p.list = append(p.list, problem)
}

func (p *problems) named(key, name string) {
	if p.names == nil {
		p.names = map[string]string{}
	}
	p.names[key] = name
}

func (p *problems) has(key string) bool {
	return slices.ContainsFunc(p.list, func(x Problem) bool { return x.Key == key })
}

func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	return &ProblemsError{Path: p.path, Problems: p.list}
}
