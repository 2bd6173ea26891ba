package runbook

import (
	"regexp"
	"strings"
)

// block is a piece of a section. Markdown is used as far as runbooks need it: paragraphs, lists, tables, fenced blocks,
// and in a line `code` and **bold**. What is anything else stays the text that it is.
type block struct {
	Kind  string // p, ul, ol, table, code or step
	Lines [][]span
	Rows  [][][]span // of a table, the head first
	Code  string
	Step  *Step
}

// span is a part of a line.
type span struct {
	Text       string
	Code, Bold bool
}

var (
	inline   = regexp.MustCompile("`[^`]+`|\\*\\*[^*]+\\*\\*")
	bullet   = regexp.MustCompile(`^- `)
	numbered = regexp.MustCompile(`^[0-9]+\. `)
	ruler    = regexp.MustCompile(`^\|[-| :]+\|$`)
)

// blocks reads a section. Its blocks of steps stand for the steps that were parsed from them, in the same order.
func (b *Runbook) blocks(s Section) []block {
	var all []block
	lines := strings.Split(s.Text, "\n")
	step := 0
	for i := 0; i < len(lines); {
		switch line := lines[i]; {
		case line == "":
			i++
		case strings.HasPrefix(line, fence):
			end := i + 1
			for end < len(lines) && strings.TrimRight(lines[end], " ") != fence {
				end++
			}
			if strings.TrimRight(line, " ") == stepFence {
				all = append(all, block{Kind: "step", Step: &b.Steps[s.steps[step]]})
				step++
			} else {
				all = append(all, block{Kind: "code", Code: strings.Join(lines[i+1:end], "\n")})
			}
			i = end + 1
		case strings.HasPrefix(line, "|"):
			end := while(lines, i, func(l string) bool { return strings.HasPrefix(l, "|") })
			all = append(all, table(lines[i:end]))
			i = end
		case bullet.MatchString(line):
			end := while(lines, i, func(l string) bool { return bullet.MatchString(l) || strings.HasPrefix(l, "  ") })
			all = append(all, block{Kind: "ul", Lines: items(lines[i:end], bullet)})
			i = end
		case numbered.MatchString(line):
			end := while(lines, i, func(l string) bool { return numbered.MatchString(l) || strings.HasPrefix(l, "  ") })
			all = append(all, block{Kind: "ol", Lines: items(lines[i:end], numbered)})
			i = end
		default:
			end := while(lines, i+1, func(l string) bool {
				return l != "" && !strings.HasPrefix(l, fence) && !strings.HasPrefix(l, "|") && !bullet.MatchString(l) && !numbered.MatchString(l)
			})
			all = append(all, block{Kind: "p", Lines: [][]span{spans(strings.Join(lines[i:end], " "))}})
			i = end
		}
	}
	return all
}

// while is the index of the first line from which on holds no longer.
func while(lines []string, from int, on func(string) bool) int {
	for from < len(lines) && on(lines[from]) {
		from++
	}
	return from
}

// items joins the lines of each entry of a list.
func items(lines []string, mark *regexp.Regexp) [][]span {
	var texts []string
	for _, line := range lines {
		if at := mark.FindStringIndex(line); at != nil {
			texts = append(texts, line[at[1]:])
		} else {
			texts[len(texts)-1] += " " + strings.TrimSpace(line)
		}
	}
	entries := make([][]span, len(texts))
	for i, text := range texts {
		entries[i] = spans(text)
	}
	return entries
}

func table(lines []string) block {
	t := block{Kind: "table"}
	for _, line := range lines {
		if ruler.MatchString(line) {
			continue
		}
		var cells [][]span
		for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
			cells = append(cells, spans(strings.TrimSpace(cell)))
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

func spans(text string) []span {
	var all []span
	for text != "" {
		at := inline.FindStringIndex(text)
		if at == nil {
			return append(all, span{Text: text})
		}
		if at[0] > 0 {
			all = append(all, span{Text: text[:at[0]]})
		}
		switch found := text[at[0]:at[1]]; found[0] {
		case '`':
			all = append(all, span{Text: found[1 : len(found)-1], Code: true})
		default:
			all = append(all, span{Text: found[2 : len(found)-2], Bold: true})
		}
		text = text[at[1]:]
	}
	return all
}
