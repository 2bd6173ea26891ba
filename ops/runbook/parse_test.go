package runbook

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// example is a runbook with a step of each kind.
func example(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("testdata/example.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func mustParse(t testing.TB, text string) *Runbook {
	t.Helper()
	book, err := Parse("example.md", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return book
}

func TestParse(t *testing.T) {
	b := mustParse(t, example(t))
	if b.ID != "example" || b.FailureMode != "2" || time.Duration(b.Owner.After) != 15*time.Minute || len(b.Sections) != 11 {
		t.Errorf("got %+v", b.Front)
	}
	var ids []string
	for _, s := range b.Steps {
		ids = append(ids, s.ID)
	}
	if want := []string{"look", "which", "by-hand", "evict", "whole", "let-in"}; !slices.Equal(ids, want) {
		t.Errorf("steps are %q, want %q", ids, want)
	}
	if got := b.Step("whole").Timeout; got != Duration(5*time.Minute+30*time.Second) {
		t.Errorf("a step that waits 5m has a timeout of %s", got)
	}
	if got := b.Step("look").Timeout; got != defaultTimeout {
		t.Errorf("the default timeout is %s", got)
	}
	if b.Step("nothing") != nil || b.Section("Why") != "Because." || b.Section("Nothing") != "" {
		t.Error("what is not there was found, or the other way round")
	}
	if len(b.Inputs()) != 0 {
		t.Errorf("inputs are %q, and node is captured", b.Inputs())
	}
	if got := len(b.Step("evict").Commands()); got != 3 {
		t.Errorf("evict has %d command lines, want run, guard and dry run", got)
	}
}

// Every mistake is named with its line. Each case makes one in the example, which itself has none (TestParse).
func TestMistakesAreNamed(t *testing.T) {
	for _, tt := range []struct {
		name, from, to string
		want           string
	}{
		{"no front matter", "---\nschema", "schema", "example.md:1: the file does not begin with front matter"},
		{"endless front matter", "related: []\n---", "related: []", "front matter does not end"},
		{"unknown field", "layers: [core]", "layer: [core]", `example.md:7: there is no field "layer"`},
		{"twice", "layers: [core]", "layers: [core]\nlayers: [core]", `example.md:8: mapping key "layers" already defined at line 7`},
		{"no YAML", "layers: [core]", "layers: [core", "example.md:"},
		{"anchors", "layers: [core]", "layers: &x [core]", "example.md:7: YAML anchors and aliases are not used"},
		{"schema", "schema: 1", "schema: 2", "schema is 2, this program reads 1"},
		{"id", "id: example\ntitle", "id: other\ntitle", `the id "other" and the file's name differ`},
		{"title", "title: An example", "title: ''", "title is missing"},
		{"long title", "title: An example", "title: " + strings.Repeat("x", maxTitle+1), "title has 101 bytes, at most 100"},
		{"failure mode", "failure_mode: 2", "failure_mode: 28", `example.md:5: failure_mode "28" is neither 1 to 27 nor slo:NAME`},
		{"no alerts", "alerts: [an-alert]", "alerts: []", "alerts is empty"},
		{"many alerts", "alerts: [an-alert]", "alerts: [" + strings.Repeat("a, ", MaxItems) + "a]", "alerts has 21 entries, at most 20"},
		{"severity", "severity: page", "severity: loud", `severity is "loud", not one of page, warn, ticket`},
		{"role", "role: discovery", "role: root", `requires.role is "root"`},
		{"duration", "after: 15m", "after: soon", `example.md:11: "soon" is not a duration`},
		{"budget", "verify: 10m}", "verify: -1s}", `"-1s" is not a duration`},
		{"heading missing", "## Why\n\nBecause.\n\n", "", `the heading is "History", want ## Why`},
		{"heading at the end missing", "## History\n\n- First version.\n", "", "the heading ## History is missing"},
		{"heading more", "- First version.", "- First version.\n\n## More\n\nx", `the heading is "More", want no more headings`},
		{"level", "## Why", "# Why", "only headings of the second level"},
		{"empty section", "Because.", "", "there is nothing under ## Why"},
		{"early text", "## Summary", "Hello.\n\n## Summary", "text in front of the first heading"},
		{"long summary", "One line.", "1\n2\n3\n4", "the summary has more than 3 lines"},
		{"control character", "Because.", "Because\x07.", "a character that is no text"},
		{"bad UTF-8", "Because.", "Because\xff.", "a character that is no text"},
		{"endless block", "explain: \"Back in.\"\n```", "explain: \"Back in.\"", "the block does not end"},
		{"language", "```step\nid: look", "```steps\nid: look", `the language of the block is "steps"`},
		{"two documents", "explain: \"Back in.\"", "explain: \"Back in.\"\n---\na: b", "the block goes on behind its end"},
		{"no mapping", "```step\nid: look", "```step\n- x\n```\n\n```step\nid: look", "this is no list of `name: value` lines"},
		{"unknown field of a step", "kind: verify", "kind: verify\nretry: 3", `there is no field "retry"`},
		{"wrong section", "kind: verify", "kind: diagnose", "a diagnose step under ## Verify"},
		{"no kind", "kind: verify\n", "", "a  step under ## Verify"},
		{"id twice", "id: which", "id: look", `the step "look" is there twice, first in line 38`},
		{"id is a word", "id: which", "id: done", `the id "done" is a word with a meaning`},
		{"no run", "run: parley core --wait 5m\n", "", "either `run`, or `manual: true` with `text`"},
		{"manual and run", "manual: true", "manual: true\nrun: parley core", "either `run`, or `manual: true` with `text`"},
		{"manual diagnose", "run: parley node status {{node}}\nexpect:\n  jq: .name == $node and .reachable\n", "manual: true\ntext: think {{node}}\n", "only mitigate and rollback steps are manual"},
		{"no explain", "explain: \"Is it whole now?\"\n", "", "explain of step whole is missing"},
		{"no branch", "on_pass: done\non_fail: escalate\nexplain: \"Is it whole now?\"", "on_pass: done\nexplain: \"Is it whole now?\"", "on_pass and on_fail say where to go"},
		{"long text", "text: Start {{node}}.", "text: Start {{node}}." + strings.Repeat("x", maxText), "text of step by-hand has"},
		{"long wait", "run: parley core --wait 5m", "run: parley core --wait 15m", "step whole may take 15m30s, its part has a budget of 10m"},
		{"short timeout", "run: parley core --wait 5m", "run: parley core --wait=5m\ntimeout: 1m", "step whole waits for 5m and has a timeout of 1m"},
		{"another program", "run: parley core --wait 5m", "run: kubectl get pods", "a command line begins with `parley `"},
		{"nothing behind it", "run: parley core --wait 5m", "run: parley", "`parley` alone does nothing"},
		{"a shell", "run: parley core --wait 5m", "run: parley core | tee x", `'|' means something to a shell`},
		{"a substitution", "run: parley core --wait 5m", "run: 'parley core \"$(id)\"'", `'$' between double quotes means something to a shell`},
		{"open quote", "run: parley core --wait 5m", "run: \"parley core 'x\"", "is not closed"},
		{"output", "run: parley core --wait 5m", "run: parley core -o yaml", "leave -o out"},
		{"expect", "run: parley core --wait 5m", "run: parley core --expect=.x", "leave --expect out"},
		{"exit", "expect:\n  jq: .margin >= 1\non_pass: done", "expect: {exit: 6}\non_pass: done", "exit is 0 to 5, and 0 with --wait"},
		{"exit of a wait", "expect:\n  jq: .margin >= 1\non_pass: done", "expect: {exit: 3}\non_pass: done", "exit is 0 to 5, and 0 with --wait"},
		{"jq", "jq: .name == $node and .reachable", "jq: .name ==", `jq ".name ==": `},
		{"jq variable", "jq: .name == $node and .reachable", "jq: .name == $host", `variable not defined: $host`},
		{"capture name", "  node: first", "  Node: first", `"Node" is no name of a variable`},
		{"many captures", "  node: first", manyCaptures() + "  node: first", "captures 21 variables, at most 20"},
		{"placeholder", "text: Start {{node}}.", "text: Start {{ node }}.", "{{ node }} is no variable"},
		{"half a placeholder", "text: Start {{node}}.", "text: Start {{node}}, {{node.", "{{ or }} without the other"},
		{"no risk", "risk: \"high: it is gone\"\n", "", `risk is "", want one of none, low, medium, high`},
		{"risk without why", "risk: \"high: it is gone\"", "risk: high", `risk is "high"`},
		{"no confirm", "confirm: \"Evict {{node}}?\"\n", "", "confirm of step evict is missing"},
		{"no rollback", "rollback: let-in\n", "", `rollback is "", want the id of a rollback step`},
		{"rollback to a mitigation", "rollback: let-in", "rollback: by-hand", `rollback is "by-hand"`},
		{"rollback without reason", "rollback: let-in", "rollback: \"none: \"", `rollback is "none: "`},
		{"careless diagnosis", "explain: \"Which one?\"", "explain: \"Which one?\"\nconfirm: x", "a diagnose step changes nothing and has no risk"},
		{"unknown step", "on_fail: evict", "on_fail: evit", `step which leads to "evit": that is no step of this runbook`},
		{"no next", "on_pass: done\non_fail: escalate\nexplain: \"Is it", "on_pass: next\non_fail: escalate\nexplain: \"Is it", "it is the last verify step"},
		{"diagnosis is done", "on_pass: by-hand", "on_pass: done", "only a verify or rollback step can say that"},
		{"verify says not this", "on_pass: done\non_fail: escalate\nexplain: \"Is it", "on_pass: not-this-runbook\non_fail: escalate\nexplain: \"Is it", "only a diagnose step can say that"},
		{"never not this", "on_pass: not-this-runbook", "on_pass: by-hand", "no diagnose step leads to not-this-runbook"},
		{"circle", "on_pass: done\non_fail: escalate\nexplain: \"Is it", "on_pass: done\non_fail: look\nexplain: \"Is it", "the steps go round in a circle: "},
		{"out of reach", "on_pass: by-hand", "on_pass: escalate", "no walk reaches the step by-hand"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := example(t)
			if !strings.Contains(text, tt.from) {
				t.Fatalf("the example has no %q", tt.from)
			}
			_, err := Parse("example.md", []byte(strings.Replace(text, tt.from, tt.to, 1)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\nwant an error with %q", err, tt.want)
			}
		})
	}
}

func manyCaptures() string {
	var b strings.Builder
	for i := range MaxItems {
		fmt.Fprintf(&b, "  v%d: .x\n", i)
	}
	return b.String()
}

// The limits on a whole file; what is exactly at a limit is fine.
func TestLimitsOfAFile(t *testing.T) {
	text := example(t)
	full := text + strings.Repeat("x", MaxFileBytes-len(text))
	mustParse(t, full)
	if _, err := Parse("example.md", []byte(full+"x")); err == nil || !strings.Contains(err.Error(), "the file has 65537 bytes, at most 65536") {
		t.Errorf("one byte more: %v", err)
	}
	more := func(n int) string {
		var steps strings.Builder
		for i := range n {
			fmt.Fprintf(&steps, "```step\nid: more-%d\nkind: diagnose\nrun: parley core\non_pass: next\non_fail: next\nexplain: x\n```\n\n", i)
		}
		return strings.Replace(text, "```step\nid: look", steps.String()+"```step\nid: look", 1)
	}
	mustParse(t, more(MaxSteps-6))
	if _, err := Parse("example.md", []byte(more(MaxSteps-5))); err == nil || !strings.Contains(err.Error(), "a runbook has at most 40 steps") {
		t.Errorf("one step more: %v", err)
	}
	wrong := strings.Repeat("# x\n", 3*maxReported)
	_, err := Parse("example.md", []byte(strings.Replace(text, "## Why", wrong+"## Why", 1)))
	if err == nil || strings.Count(err.Error(), "\n")+1 != maxReported {
		t.Errorf("%d problems are reported, want %d", strings.Count(err.Error(), "\n")+1, maxReported)
	}
}

func TestSplitCommand(t *testing.T) {
	for line, want := range map[string][]string{
		"parley core":                        {"core"},
		"parley  kv   get  k ":               {"kv", "get", "k"},
		"parley kv put k 'a b' \"c d\"":      {"kv", "put", "k", "a b", "c d"},
		"parley kv put k ''":                 {"kv", "put", "k", ""},
		"parley kv put k a'b c'd":            {"kv", "put", "k", "ab cd"},
		`parley kv put k '$(id) "x" \n | ;'`: {"kv", "put", "k", `$(id) "x" \n | ;`},
		"parley node status {{node}}":        {"node", "status", "{{node}}"},
	} {
		if got, err := SplitCommand(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v, want %q", line, got, err, want)
		}
	}
}

// A value stays in its word, whatever is in it, and cannot become a flag.
func TestValuesStayInTheirWord(t *testing.T) {
	for _, value := range []string{"a b", "'", `"`, "$(id)", "{{node}}", "; rm -rf /", "a --yes"} {
		got, err := command("parley node status {{node}} x{{node}}", map[string]string{"node": value})
		if want := []string{"node", "status", value, "x" + value}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: got %q, %v", value, got, err)
		}
	}
	if got, err := command("parley node status {{node}}", map[string]string{"node": "--addr=evil"}); err == nil {
		t.Errorf("a value became a flag: %q", got)
	}
	if _, err := command("parley node status {{node}}", nil); err == nil || !strings.Contains(err.Error(), `nothing says what "node" is`) {
		t.Errorf("without a value: %v", err)
	}
	for _, value := range []string{"", "a\nb", "\x1b[2J", strings.Repeat("x", maxValue+1), "\xff"} {
		if err := CheckValue(value); err == nil {
			t.Errorf("%q is taken as a value", value)
		}
	}
	if err := CheckValue(strings.Repeat("x", maxValue)); err != nil {
		t.Error(err)
	}
}

// A value in a jq program is a text, whatever is in it.
func TestValuesStayTextInJQ(t *testing.T) {
	for _, value := range []string{"a2", `"`, `\(1)`, `" or true or "`, "</script>", "ü"} {
		values := map[string]string{"node": value}
		got, err := evaluate(t.Context(), "$node", values, []byte("{}"))
		if err != nil || got != value {
			t.Errorf("%q: got %q, %v", value, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example(f)))
	f.Add([]byte("---\nid: x\n---\n## Summary\n```step\nid: a\n```\n"))
	f.Add([]byte("---\na: &b [*b]\n---\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		book, err := Parse("example.md", text)
		switch {
		case (err == nil) == (book == nil):
			t.Fatalf("got %v and %v", book, err)
		case err != nil:
			return
		}
		// Whatever can be parsed can be shown, and walked to an end.
		if _, err := book.Page(); err != nil {
			t.Fatal(err)
		}
		for _, code := range []int{0, 1} {
			run, err := book.Run(t.Context(), Options{Execute: answers(code, "{}").execute, Confirm: yes})
			if err != nil || run.Result == "" || len(run.Steps) > len(book.Steps) {
				t.Fatalf("run: %+v, %v", run, err)
			}
		}
	})
}

func FuzzSplitCommand(f *testing.F) {
	f.Add("parley kv put k 'a b'")
	f.Add("parley '\x05'")
	f.Fuzz(func(t *testing.T, line string) {
		words, err := SplitCommand(line)
		if err != nil {
			return
		}
		if strings.Contains(strings.Join(words, ""), "'") {
			return // what is pasted has a shell's quoting then, and is never split again
		}
		if again, err := SplitCommand(paste(words, "")); err != nil || !slices.Equal(words, again) {
			t.Errorf("%q is %q, and pasted %q: %q, %v", line, words, paste(words, ""), again, err)
		}
	})
}
