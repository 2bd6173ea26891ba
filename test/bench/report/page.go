package report

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// What is written stands between these lines of a page.
const (
	pageBegin = "<!-- make bench wrote this -->\n"
	pageEnd   = "<!-- to here -->\n"
)

// Replace puts text between the marks of a page.
func Replace(page, text string) (string, error) {
	before, rest, found := strings.Cut(page, pageBegin)
	_, after, ended := strings.Cut(rest, pageEnd)
	if !found || !ended {
		return "", errors.New("the page has no line " + strings.TrimSpace(pageBegin) + " followed by " + strings.TrimSpace(pageEnd))
	}
	return before + pageBegin + text + pageEnd + after, nil
}

// String is a measure on one line.
func (m Measure) String() string {
	var b strings.Builder
	b.WriteString(m.cell().String() + ":")
	names := make([]string, 0, len(m.Values))
	for name := range m.Values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, " %s=%s", name, number(m.Values[name]))
	}
	if len(m.Each) > 0 {
		b.WriteString(" of " + list(m.Each))
	}
	if m.Note != "" {
		b.WriteString(" (" + m.Note + ")")
	}
	return b.String()
}
