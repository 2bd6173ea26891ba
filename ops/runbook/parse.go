package runbook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of a runbook. They are far above what a person reads at night.
const (
	MaxFileBytes = 64 << 10
	MaxSteps     = 40
	MaxItems     = 20   // of a list, and of the variables of a step
	maxTitle     = 100  // bytes
	maxText      = 2000 // bytes of every other string
	maxReported  = 20   // problems of one file
)

// headings are those of every runbook, in this order. Those with steps say of which kind.
var headings = []struct {
	name  string
	steps Kind
}{
	{"Summary", ""},
	{"Am I in the right place?", ""},
	{"Impact", ""},
	{"Do NOT", ""},
	{"Diagnose", Diagnose},
	{"Mitigate", Mitigate},
	{"Verify", Verify},
	{"Roll back", Rollback},
	{"Escalate", ""},
	{"Why", ""},
	{"History", ""},
}

const (
	fence     = "```"
	stepFence = "```step"
	frontLine = "---"
)

// Parse reads a runbook and checks everything that can be checked without the commands it names. The error lists
// every problem as FILE:LINE: what is wrong.
func Parse(file string, text []byte) (*Runbook, error) {
	p := &parser{file: file, book: &Runbook{Source: text, byID: make(map[string]int)}}
	p.read(text)
	if len(p.problems) == 0 {
		p.validate()
	}
	if len(p.problems) > 0 {
		return nil, errors.Join(p.problems...)
	}
	return p.book, nil
}

type parser struct {
	file     string
	book     *Runbook
	problems []error
}

// fail notes a problem. Beyond maxReported nobody reads them.
func (p *parser) fail(line int, format string, args ...any) {
	if len(p.problems) < maxReported {
		p.problems = append(p.problems, fmt.Errorf("%s:%d: "+format, append([]any{p.file, line}, args...)...))
	}
}

func (p *parser) read(text []byte) {
	if len(text) > MaxFileBytes {
		p.fail(1, "the file has %d bytes, at most %d: a runbook that long is not read", len(text), MaxFileBytes)
		return
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if !utf8.ValidString(line) || strings.ContainsFunc(line, isControl) {
			p.fail(i+1, "a character that is no text: use UTF-8, and spaces instead of tabs")
			return
		}
	}
	if lines[0] != frontLine {
		p.fail(1, "the file does not begin with front matter: its first line is ---")
		return
	}
	for i, line := range lines[1:] {
		if line == frontLine {
			p.decode(&p.book.Front, lines[1:i+1], 2)
			p.body(lines, i+2)
			return
		}
	}
	p.fail(1, "the front matter does not end: put --- alone on a line behind it")
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// body reads the sections from line index first (counted from 0) on.
func (p *parser) body(lines []string, first int) {
	for i := first; i < len(lines); i++ {
		line := lines[i]
		switch {
		case strings.HasPrefix(line, fence):
			end := p.block(lines, i)
			if end < 0 {
				return
			}
			p.text(lines[i:end+1], i)
			i = end
		case strings.HasPrefix(line, "## "):
			p.book.Sections = append(p.book.Sections, Section{Heading: strings.TrimSpace(line[3:]), line: i + 1})
		case strings.HasPrefix(line, "#"):
			p.fail(i+1, "only headings of the second level (##) are used; the title is in the front matter")
		default:
			p.text(lines[i:i+1], i)
		}
	}
	for i := range p.book.Sections {
		p.book.Sections[i].Text = strings.Trim(p.book.Sections[i].Text, "\n")
	}
}

// text adds lines to the section they are in.
func (p *parser) text(lines []string, at int) {
	if len(p.book.Sections) == 0 {
		if strings.TrimSpace(strings.Join(lines, "")) != "" {
			p.fail(at+1, "text in front of the first heading: begin with ## %s", headings[0].name)
		}
		return
	}
	section := &p.book.Sections[len(p.book.Sections)-1]
	section.Text += strings.Join(lines, "\n") + "\n"
}

// block reads a fenced block that begins at lines[at] and returns the index of its last line, -1 if it has none.
func (p *parser) block(lines []string, at int) int {
	for end := at + 1; end < len(lines); end++ {
		if strings.TrimRight(lines[end], " ") != fence {
			continue
		}
		switch language := strings.TrimRight(lines[at], " "); {
		case language == stepFence:
			p.step(lines[at+1:end], at+1)
		case strings.Contains(language, "step"):
			p.fail(at+1, "the language of the block is %q: a step's is exactly `step`", language[len(fence):])
		}
		return end
	}
	p.fail(at+1, "the block does not end: put ``` alone on a line behind it")
	return -1
}

func (p *parser) step(lines []string, at int) {
	var s Step
	s.line = at
	p.decode(&s, lines, at+1)
	i := len(p.book.Steps)
	switch {
	case i == MaxSteps:
		p.fail(at, "a runbook has at most %d steps: split it by failure", MaxSteps)
		return
	case i > MaxSteps || len(p.book.Sections) == 0:
		return
	}
	if old, twice := p.book.byID[s.ID]; twice {
		p.fail(at, "the step %q is there twice, first in line %d", s.ID, p.book.Steps[old].line)
	}
	p.book.byID[s.ID] = i
	p.book.Steps = append(p.book.Steps, s)
	section := &p.book.Sections[len(p.book.Sections)-1]
	section.steps = append(section.steps, i)
}

// decode reads YAML strictly. at is the number of its first line in the file: as many empty lines in front make yaml
// count as we do.
func (p *parser) decode(into any, lines []string, at int) {
	text := []byte(strings.Repeat("\n", at-1) + strings.Join(lines, "\n"))
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		p.yamlProblems(at, err)
		return
	}
	if len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode {
		p.fail(at, "this is no list of `name: value` lines")
		return
	}
	if line := aliasLine(&root); line > 0 {
		p.fail(line, "YAML anchors and aliases are not used in runbooks: write it out")
		return
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		p.yamlProblems(at, err)
		return
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		p.fail(at, "the block goes on behind its end: --- and ... are not used in it")
	}
}

// aliasLine is the line of the first anchor or alias, 0 if there is none. An alias can stand for something that
// contains it, so nothing is expanded before this was asked.
func aliasLine(node *yaml.Node) int {
	if node.Kind == yaml.AliasNode || node.Anchor != "" {
		return node.Line
	}
	for _, child := range node.Content {
		if line := aliasLine(child); line > 0 {
			return line
		}
	}
	return 0
}

// yamlProblems takes the line out of yaml's words, one problem each.
func (p *parser) yamlProblems(at int, err error) {
	complaints := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	var several *yaml.TypeError
	if errors.As(err, &several) {
		complaints = several.Errors
	}
	for _, c := range complaints {
		line, rest := at, c
		if n, err := fmt.Sscanf(c, "line %d:", &line); n == 1 && err == nil {
			_, rest, _ = strings.Cut(c, ": ")
		}
		p.fail(line, "%s", inWords(rest))
	}
}

// inWords says what a person can do about yaml's complaint.
func inWords(complaint string) string {
	name, found := strings.CutPrefix(complaint, "field ")
	if name, _, cut := strings.Cut(name, " not found in type "); found && cut {
		return fmt.Sprintf("there is no field %q; ops/runbook/book.go has all that there are", name)
	}
	return complaint
}
