package runbook

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxValue = 256 // bytes of a variable's value

var (
	idPattern       = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)
	variablePattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
	placeholder     = regexp.MustCompile(`\{\{[^{}]*\}\}`)
)

// program is the first word of every command line, so that it can be pasted into a shell as it stands.
const program = "parley"

// shellOnly are characters that mean something to a shell. A command line never goes through one, and whoever pastes
// it must get the same.
const shellOnly = "$`|;&<>*?[]()!#~\\"

// SplitCommand splits a command line into the words behind `parley`: at blanks, except between two single or two
// double quotes, which are left out. There are no other rules, and what a shell would treat otherwise is refused.
func SplitCommand(line string) ([]string, error) {
	words, err := split(line)
	switch {
	case err != nil:
		return nil, err
	case len(words) == 0 || words[0] != program:
		return nil, fmt.Errorf("a command line begins with `%s `", program)
	case len(words) == 1:
		return nil, fmt.Errorf("`%s` alone does nothing", program)
	}
	return words[1:], nil
}

func split(line string) (words []string, err error) {
	var word strings.Builder
	var quote rune
	open := false // a word has begun, possibly an empty one
	for _, r := range line {
		switch {
		case isControl(r):
			return nil, errors.New("a command is one line without tabs and other control characters")
		case quote != 0 && r == quote:
			quote = 0
		case quote == '"' && strings.ContainsRune("$`\\!", r):
			return nil, fmt.Errorf("%q between double quotes means something to a shell: use single quotes", r)
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == ' ':
			if open {
				words = append(words, word.String())
				word.Reset()
			}
			open = false
		case strings.ContainsRune(shellOnly, r):
			return nil, fmt.Errorf("%q means something to a shell: put the word in single quotes", r)
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the %q is not closed", quote)
	}
	if open {
		words = append(words, word.String())
	}
	return words, nil
}

// placeholders are the names between {{ and }} in a text, sorted, and an error for what is no name.
func placeholders(text string) ([]string, error) {
	var names []string
	for _, found := range placeholder.FindAllString(text, -1) {
		name := found[2 : len(found)-2]
		if !variablePattern.MatchString(name) {
			return nil, fmt.Errorf("%s is no variable: write {{name}}, of small letters, digits and _", found)
		}
		names = append(names, name)
	}
	if rest := placeholder.ReplaceAllString(text, ""); strings.Contains(rest, "{{") || strings.Contains(rest, "}}") {
		return nil, errors.New("{{ or }} without the other: a variable is {{name}}")
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// missingError says that a variable has no value.
type missingError string

func (e missingError) Error() string { return fmt.Sprintf("nothing says what %q is", string(e)) }

// fill replaces the placeholders of a text by values.
func fill(text string, values map[string]string) (filled string, err error) {
	filled = placeholder.ReplaceAllStringFunc(text, func(found string) string {
		name := found[2 : len(found)-2]
		value, ok := values[name]
		if !ok && err == nil {
			err = missingError(name)
		}
		return value
	})
	return filled, err
}

// command splits a command line and fills each word by itself, so that a value stays within its word. A value that
// would begin a word as a flag is refused: it came from an answer, and another host may have chosen it.
func command(line string, values map[string]string) ([]string, error) {
	words, err := SplitCommand(line)
	if err != nil {
		return nil, err
	}
	for i, word := range words {
		filled, err := fill(word, values)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(filled, "-") && !strings.HasPrefix(word, "-") {
			return nil, fmt.Errorf("%q would be read as a flag", filled)
		}
		words[i] = filled
	}
	return words, nil
}

// CheckValue reports why a text cannot be the value of a variable. Values are printed and become words of commands.
func CheckValue(value string) error {
	switch {
	case value == "":
		return errors.New("a value is not empty")
	case len(value) > maxValue:
		return fmt.Errorf("a value has at most %d bytes, not %d", maxValue, len(value))
	case !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%q has characters that cannot be printed", value)
	}
	return nil
}
