package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// The table stands between these lines of docs/compatibility.md.
const (
	tableBegin = "<!-- test/compat/run -write wrote this -->\n"
	tableEnd   = "<!-- to here -->\n"
)

// table is what passed and what was not run, and why.
func (l list) table(r *results) string {
	var b strings.Builder
	passed, required := 0, 0
	var groups []string
	for _, t := range l {
		if t.excluded != "" {
			continue
		}
		required++
		if r.passed(t.name) {
			passed++
		}
		if !slices.Contains(groups, t.group) {
			groups = append(groups, t.group)
		}
	}
	fmt.Fprintf(&b, "%d of the %d tests have to pass, and %d do.\n\n", required, len(l), passed)
	b.WriteString("| group | pass | tests |\n|---|---|---|\n")
	for _, group := range groups {
		l.groupRow(&b, r, group)
	}
	b.WriteString("\nNot run:\n\n| why | tests |\n|---|---|\n")
	var reasons []string
	for _, t := range l {
		if t.excluded != "" && !slices.Contains(reasons, t.excluded) {
			reasons = append(reasons, t.excluded)
		}
	}
	for _, reason := range reasons {
		var names []string
		for _, t := range l {
			if t.excluded == reason {
				names = append(names, short(t.name))
			}
		}
		fmt.Fprintf(&b, "| %s (%d) | %s |\n", reason, len(names), strings.Join(names, ", "))
	}
	return b.String()
}

func (l list) groupRow(b *strings.Builder, r *results, group string) {
	var names []string
	passed, all := 0, 0
	for _, t := range l {
		if t.group != group || t.excluded != "" {
			continue
		}
		all++
		name := short(t.name)
		if r.passed(t.name) {
			passed++
		} else {
			name = "**" + name + " fails**"
		}
		names = append(names, name)
	}
	fmt.Fprintf(b, "| %s | %d of %d | %s |\n", group, passed, all, strings.Join(names, ", "))
}

func short(name string) string {
	return strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(name, "Test"), "API_"), "_", `\_`)
}

// updateTable puts the table into the file, or reports that it is another one there.
func updateTable(path, now string, write bool) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed, err := replaceTable(string(text), now)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	case changed == string(text):
		return nil
	case !write:
		return fmt.Errorf("the table of %s is out of date: run test/compat/run -write", path)
	}
	return os.WriteFile(path, []byte(changed), 0o644) //nolint:gosec // documentation
}

func replaceTable(text, now string) (string, error) {
	before, rest, found := strings.Cut(text, tableBegin)
	_, after, closed := strings.Cut(rest, tableEnd)
	if !found || !closed {
		return "", errors.New("the lines around the table are gone")
	}
	return before + tableBegin + now + tableEnd + after, nil
}
