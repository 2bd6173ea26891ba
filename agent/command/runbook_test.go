package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/ops/runbook"
)

// alertRunbooks are the alerts that there are and the runbook that each names.
func alertRunbooks() map[string]string {
	named := make(map[string]string)
	for _, alert := range ops.Alerts() {
		named[alert.ID] = alert.Runbook
	}
	return named
}

// unfit are commands that no step may run: they do not end, ask, found things, or print a secret, which would then be
// in the result of the walk.
var unfit = []string{"agent", "lab", "init", "runbook", "token", "operator", "completion", "help"}

func ourRunbooks(t *testing.T) []*runbook.Runbook {
	t.Helper()
	library, err := runbook.Ours()
	if err != nil {
		t.Fatal(err)
	}
	return library.All()
}

// Every alert has exactly one runbook, the one that it names; and no runbook is for an alert that does not exist.
func TestEveryAlertHasItsRunbook(t *testing.T) {
	found := make(map[string]string)
	for _, b := range ourRunbooks(t) {
		for _, alert := range b.Alerts {
			found[alert] = b.ID // Load refuses an alert with two
		}
	}
	if want := alertRunbooks(); !maps.Equal(found, want) {
		t.Errorf("the runbooks are for\n%v\nthe alerts name\n%v", found, want)
	}
}

// Every command of every step exists as it is written, and may be run by a step.
func TestRunbookCommandsExist(t *testing.T) {
	for _, b := range ourRunbooks(t) {
		for i := range b.Steps {
			for _, c := range b.Steps[i].Commands() {
				if err := checkLine(c.Line, true); err != nil {
					t.Errorf("%s, step %s: %v", b.ID, b.Steps[i].ID, err)
				}
			}
			for line := range strings.Lines(b.Steps[i].Text) {
				if line = strings.TrimSpace(line); strings.HasPrefix(line, "parley ") {
					if err := checkLine(line, false); err != nil {
						t.Errorf("%s, text of step %s: %v", b.ID, b.Steps[i].ID, err)
					}
				}
			}
		}
	}
}

// Every command that the text mentions exists, with its flags. Arguments may be left out in a sentence.
func TestRunbookTextNamesRealCommands(t *testing.T) {
	mention := regexp.MustCompile("`(parley [^`]+)`")
	n := 0
	for _, b := range ourRunbooks(t) {
		for _, found := range mention.FindAllStringSubmatch(string(b.Source), -1) {
			n++
			if err := checkLine(found[1], false); err != nil && !strings.Contains(err.Error(), " needs ") {
				t.Errorf("%s: %q: %v", b.ID, found[1], err)
			}
		}
	}
	if n == 0 {
		t.Error("no command is mentioned: the text is not read right")
	}
}

// checkLine holds a command line against the command tree.
func checkLine(line string, inStep bool) error {
	args, err := runbook.SplitCommand(line)
	if err != nil {
		return err
	}
	if inStep && slices.Contains(unfit, args[0]) {
		return fmt.Errorf("no step may run `parley %s`", args[0])
	}
	found, rest, err := Tree().Find(args)
	if err != nil || !found.HasParent() {
		return fmt.Errorf("%s: there is no such command", line)
	}
	if err := found.ParseFlags(rest); err != nil {
		return err
	}
	return found.ValidateArgs(found.Flags().Args())
}

// The check of command lines finds what it is for.
func TestCheckLine(t *testing.T) {
	for line, want := range map[string]string{
		"parley core --wait 5m":             "",
		"parley kv get {{key}} --stale":     "",
		"parley coer":                       "there is no such command",
		"parley core sise 3":                "has no command",
		"parley core --wiat 5m":             "unknown flag: --wiat",
		"parley core --wait soon":           "invalid argument",
		"parley kv get":                     "needs KEY",
		"parley status a1":                  "does not take",
		"parley token create":               "no step may run `parley token`",
		"parley runbook run server-down":    "no step may run `parley runbook`",
		"parley storage scrub --offline":    "",
		"parley kv delete k --prefix --yes": "",
	} {
		err := checkLine(line, true)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", line, err, want)
		}
	}
}

// shape reads the example of a command's answer.
func shape(t *testing.T, command string) (example any, ok bool) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "shapes", strings.ReplaceAll(command, " ", "-")+".json"))
	if os.IsNotExist(err) {
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &example); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return example, true
}

// commandOf is the command of a line, without its arguments and flags.
func commandOf(line string) string {
	args, err := runbook.SplitCommand(line)
	if err != nil {
		return ""
	}
	found, _, err := Tree().Find(args)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(found.CommandPath(), "parley ")
}

// Every path in every jq program of the runbooks exists in what its command prints; TestShapesAreTrue holds the
// examples against that.
func TestRunbookPathsExist(t *testing.T) {
	for _, b := range ourRunbooks(t) {
		for i := range b.Steps {
			for _, c := range b.Steps[i].Commands() {
				programs := c.Captures
				if c.Expect.JQ != "" {
					programs = append(programs, c.Expect.JQ)
				}
				example, ok := shape(t, commandOf(c.Line))
				if len(programs) > 0 && !ok {
					t.Errorf("%s, step %s: there is no example of what `%s` prints: add testdata/shapes/%s.json", b.ID, b.Steps[i].ID, c.Line, strings.ReplaceAll(commandOf(c.Line), " ", "-"))
					continue
				}
				for _, program := range programs {
					if err := jqPaths(program, example, b.Variables()); err != nil {
						t.Errorf("%s, step %s: %s: %v", b.ID, b.Steps[i].ID, program, err)
					}
				}
			}
		}
	}
}

// shapeArguments are what a command needs beside its name. A scrub that finds something fails unless --expect decides.
var shapeArguments = map[string][]string{"node status": {"a2"}, "storage scrub": {"--expect", "true"}}

// Each example has the fields that its command prints, no more and no fewer. The fake agent answers; that the real one
// answers alike is shown in api.
func TestShapesAreTrue(t *testing.T) {
	agent := newFakeAgent()
	defer agent.Close()
	files, err := filepath.Glob("testdata/shapes/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	arguments := maps.Clone(shapeArguments)
	_, backup := restorable(t)
	arguments["snapshot verify"] = []string{backup}
	for _, file := range files {
		name := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".json"), "-", " ")
		example, _ := shape(t, name)
		var out, problems bytes.Buffer
		a := &app{in: strings.NewReader(""), out: &out, err: &problems, getenv: func(string) string { return "" }}
		args := slices.Concat(strings.Fields(name), arguments[name], []string{"--addr", agent.URL, "-o", "json"})
		if code := a.run(context.Background(), args); code != exitOK && out.Len() == 0 { // a check that fails has an answer
			t.Errorf("%s: exit %d: %s", name, code, &problems)
			continue
		}
		var printed any
		if err := json.Unmarshal(out.Bytes(), &printed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := sameShape("", example, printed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// sameShape compares the names of fields, all the way down. Null and empty lists can stand for anything.
func sameShape(path string, example, printed any) error {
	switch e := example.(type) {
	case map[string]any:
		p, ok := printed.(map[string]any)
		if !ok {
			return nullOr(path, printed, "an object")
		}
		want, got := slices.Sorted(maps.Keys(e)), slices.Sorted(maps.Keys(p))
		if !slices.Equal(want, got) {
			return fmt.Errorf("%s: the example has the fields %q, the command prints %q", path, want, got)
		}
		for name := range e {
			if err := sameShape(path+"."+name, e[name], p[name]); err != nil {
				return err
			}
		}
	case []any:
		p, ok := printed.([]any)
		if !ok {
			return nullOr(path, printed, "a list")
		}
		for _, each := range p {
			if len(e) > 0 {
				if err := sameShape(path+"[]", e[0], each); err != nil {
					return err
				}
			}
		}
	default:
		switch printed.(type) {
		case map[string]any, []any:
			return fmt.Errorf("%s: the example has %v, the command prints more", path, example)
		}
	}
	return nil
}

func nullOr(path string, printed any, what string) error {
	if printed == nil {
		return nil
	}
	return fmt.Errorf("%s: the example has %s, the command prints %v", path, what, printed)
}

func TestSameShape(t *testing.T) {
	parse := func(text string) (v any) {
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tt := range []struct {
		example, printed string
		same             bool
	}{
		{`{"a":[{"b":1}]}`, `{"a":[{"b":"x"},{"b":null}]}`, true}, {`{"a":[{"b":1}]}`, `{"a":[]}`, true}, {`{"a":{"b":1}}`, `{"a":null}`, true},
		{`{"a":[{"b":1}]}`, `{"a":[{"b":1,"c":2}]}`, false}, {`{"a":[{"b":1}]}`, `{"a":[{}]}`, false}, {`{"a":1}`, `{"a":{"b":1}}`, false},
		{`{"a":[1]}`, `{"a":1}`, false}, {`{"a":1}`, `[]`, false},
	} {
		if err := sameShape("", parse(tt.example), parse(tt.printed)); (err == nil) != tt.same {
			t.Errorf("%s and %s: %v", tt.example, tt.printed, err)
		}
	}
}
