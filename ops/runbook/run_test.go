package runbook

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fake answers commands from a list, the last answer for ever, and notes what it was asked.
type fake struct {
	exits []int
	texts []string
	calls []Call
}

func answers(exit int, text string) *fake { return &fake{exits: []int{exit}, texts: []string{text}} }

func (f *fake) then(exit int, text string) *fake {
	f.exits, f.texts = append(f.exits, exit), append(f.texts, text)
	return f
}

func (f *fake) execute(_ context.Context, call Call) Outcome {
	f.calls = append(f.calls, call)
	i := min(len(f.calls), len(f.exits)) - 1
	out := Outcome{Exit: f.exits[i], Stdout: []byte(f.texts[i])}
	if out.Exit != 0 && f.texts[i] == "" {
		out.Stderr = []byte("parley: error: broken\n")
	}
	return out
}

func (f *fake) asked() string {
	var lines []string
	for _, c := range f.calls {
		line := strings.Join(c.Args, " ")
		if !c.ReadOnly {
			line += " (writes)"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// verdict is true, false, or - for what was left out.
func verdict(s StepResult) string {
	if s.OK == nil {
		return "-"
	}
	return fmt.Sprint(*s.OK)
}

func yes(context.Context, string) bool { return true }

// trail is a walk in one line.
func trail(run Run) string {
	var steps []string
	for _, s := range run.Steps {
		steps = append(steps, s.ID+" "+verdict(s))
	}
	return strings.Join(steps, ", ") + ": " + string(run.Result)
}

const (
	whole  = `{"margin":1,"leader":"a1","voters":[{"name":"a1","healthy":true}]}`
	broken = `{"margin":0,"leader":"a1","voters":[{"name":"a1","healthy":true},{"name":"a2","healthy":false}]}`
	there  = `{"name":"a2","reachable":true}`
	gone   = `{"name":"a2","reachable":false}`
)

func TestWalks(t *testing.T) {
	for _, tt := range []struct {
		name    string
		fake    *fake
		options Options
		want    string
		asked   string
	}{
		{
			"healthy: another failure", answers(0, whole), Options{},
			"look true, whole true: pass", "core\ncore --wait 10s --expect .margin >= 1",
		},
		{
			"healthy, and verify differs", answers(0, whole).then(2, broken), Options{},
			"look true, whole false: escalate", "",
		},
		{
			"by hand", answers(0, broken).then(0, there).then(0, whole), Options{Confirm: yes},
			"look false, which true, by-hand true, whole true: pass",
			"core\nnode status a2\ncore --wait 5m --expect .margin >= 1",
		},
		{
			"by a command", answers(0, broken).then(0, gone).then(0, whole).then(0, `{}`).then(0, `{}`).then(0, whole), Options{Confirm: yes},
			"look false, which false, evict true, whole true: pass",
			"core\nnode status a2\ncore\nevict a2 --dry-run\nevict a2 --reason it is gone (writes)\ncore --wait 5m --expect .margin >= 1",
		},
		{
			"the mitigation does not help", answers(0, broken).then(0, there).then(2, broken), Options{Confirm: yes},
			"look false, which true, by-hand true, whole false: escalate", "",
		},
		{
			"the mitigation fails", answers(0, broken).then(0, gone).then(0, whole).then(0, `{}`).then(1, "").then(0, "{}"), Options{Confirm: yes},
			"look false, which false, evict false, let-in true: pass",
			"core\nnode status a2\ncore\nevict a2 --dry-run\nevict a2 --reason it is gone (writes)\ncore allow a2 (writes)",
		},
		{
			"outcome unknown: once more", answers(0, broken).then(0, gone).then(0, whole).then(0, `{}`).then(5, "").then(0, "{}").then(0, whole), Options{Confirm: yes},
			"look false, which false, evict true, whole true: pass",
			"core\nnode status a2\ncore\nevict a2 --dry-run\nevict a2 --reason it is gone (writes)\nevict a2 --reason it is gone (writes)\ncore --wait 5m --expect .margin >= 1",
		},
		{
			"outcome unknown for ever", answers(0, broken).then(0, gone).then(0, whole).then(0, `{}`).then(5, ""), Options{Confirm: yes},
			"look false, which false, evict false, let-in false: escalate", "",
		},
		{
			"not confirmed", answers(0, broken).then(0, there), Options{},
			"look false, which true, by-hand false: fail", "core\nnode status a2",
		},
		{
			"a command is not confirmed", answers(0, broken).then(0, gone).then(0, whole), Options{},
			"look false, which false, evict false: fail", "core\nnode status a2\ncore\nevict a2 --dry-run",
		},
		{
			"the guard does not hold", answers(0, broken).then(0, gone).then(0, `{"leader":null}`), Options{Confirm: yes},
			"look false, which false, evict false: fail", "core\nnode status a2\ncore",
		},
		{
			"dry run", answers(0, broken).then(0, gone), Options{DryRun: true, Confirm: yes},
			"look false, which false, evict -, whole -: unverified", "core\nnode status a2\nevict a2 --dry-run",
		},
		{
			"dry run by hand", answers(0, broken).then(0, there), Options{DryRun: true},
			"look false, which true, by-hand -, whole -: unverified", "core\nnode status a2",
		},
		{
			"dry run of what is another failure", answers(0, whole), Options{DryRun: true},
			"look true, whole true: pass", "",
		},
		{
			"from verify", answers(0, whole), Options{From: "verify"},
			"whole true: pass", "core --wait 5m --expect .margin >= 1",
		},
		{
			"from a step", answers(0, there).then(0, whole), Options{From: "which", Vars: map[string]string{"node": "a9"}, Confirm: yes},
			"which false, evict true, whole true: pass",
			"node status a9\ncore\nevict a9 --dry-run\nevict a9 --reason it is gone (writes)\ncore --wait 5m --expect .margin >= 1",
		},
		{
			"a variable is given", answers(0, broken).then(0, there).then(0, whole), Options{Vars: map[string]string{"node": "a7"}, Confirm: yes},
			"look false, which false, evict true, whole true: pass", "",
		},
		{
			"no answer is not another failure", answers(3, ""), Options{},
			"look false: escalate", "core",
		},
		{
			"an answer of another shape", answers(0, `{"margin":0,"voters":7}`), Options{},
			"look false, which false: fail", "core",
		},
		{
			"no JSON", answers(0, "hello"), Options{},
			"look false: escalate", "",
		},
		{
			"nothing captured", answers(0, `{"margin":0,"voters":[]}`), Options{},
			"look false, which false: fail", "core",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.options.Execute = tt.fake.execute
			run, err := mustParse(t, example(t)).Run(t.Context(), tt.options)
			if err != nil {
				t.Fatal(err)
			}
			if got := trail(run); got != tt.want {
				t.Errorf("got  %s\nwant %s\n%s", got, tt.want, tt.fake.asked())
			}
			if tt.asked != "" && tt.fake.asked() != tt.asked {
				t.Errorf("asked\n%s\nwant\n%s", tt.fake.asked(), tt.asked)
			}
			checkRun(t, run)
		})
	}
}

// checkRun holds what is true of every walk.
func checkRun(t *testing.T, run Run) {
	t.Helper()
	if last := run.Steps[len(run.Steps)-1]; run.Result != Fail && last.Branch != "done" && last.Branch != "escalate" {
		t.Errorf("the walk ends with %q", last.Branch)
	}
	if run.Result != Pass && run.Reason == "" {
		t.Error("nothing says why")
	}
	if _, err := json.Marshal(run); err != nil {
		t.Error(err)
	}
}

// A walk says who refused, what is missing, and which branch it took.
func TestRunSaysWhy(t *testing.T) {
	b := mustParse(t, example(t))
	walk := func(f *fake, o Options) Run {
		o.Execute = f.execute
		run, err := b.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	if run := walk(answers(0, whole), Options{}); !run.NotThis || run.Refused || run.Steps[0].Branch != "not-this-runbook" || run.Steps[1].Branch != "done" {
		t.Errorf("healthy: %+v", run)
	}
	if run := walk(answers(0, broken).then(0, there), Options{}); !run.Refused || run.Reason != "the step by-hand was not confirmed, stopped here" || run.Steps[2].Branch != "" || run.Steps[1].Branch != "by-hand" {
		t.Errorf("refused: %+v", run)
	}
	if run := walk(answers(0, `{"margin":0,"voters":[]}`), Options{}); run.Refused || !strings.Contains(run.Reason, "parley runbook run example --from which --var node=VALUE") {
		t.Errorf("missing: %+v", run)
	}
	asked := ""
	ask := func(_ context.Context, name string) (string, bool) { asked = name; return "a5", true }
	f := answers(0, `{"margin":0,"voters":[]}`).then(0, `{"name":"a5","reachable":true}`).then(0, whole)
	if run := walk(f, Options{Ask: ask, Confirm: yes}); run.Result != Pass || asked != "node" || f.calls[1].Args[2] != "a5" {
		t.Errorf("asked for %q: %+v", asked, run)
	}
	if run := walk(answers(3, ""), Options{}); run.NotThis || run.Steps[0].Error != "parley: error: broken" || *run.Steps[0].Exit != 3 {
		t.Errorf("no answer: %+v", run)
	}
	if run := walk(answers(0, broken).then(0, gone), Options{DryRun: true}); !strings.Contains(run.Reason, "nothing was verified") || run.Steps[2].Exit != nil {
		t.Errorf("dry run: %+v", run)
	}
}

// An answer may come from a host that somebody else has: it cannot put flags or control characters into commands.
func TestCapturedValuesAreChecked(t *testing.T) {
	for _, name := range []string{"--yes", "a\nb", strings.Repeat("x", maxValue+1), ""} {
		answer, err := json.Marshal(map[string]any{"margin": 0, "voters": []any{map[string]any{"name": name, "healthy": false}}})
		if err != nil {
			t.Fatal(err)
		}
		f := answers(0, string(answer))
		run, err := mustParse(t, example(t)).Run(t.Context(), Options{Execute: f.execute, Confirm: yes})
		if err != nil || run.Result != Fail || len(f.calls) != 1 {
			t.Errorf("%.20q: %s\n%s", name, trail(run), f.asked())
		}
	}
}

func TestBadOptions(t *testing.T) {
	for want, o := range map[string]Options{
		`the runbook example has no step "nowhere"; it has look, which`: {From: "nowhere"},
		`has no variable "nod"; it has: node`:                           {Vars: map[string]string{"nod": "a1"}},
		`variable node: a value is not empty`:                           {Vars: map[string]string{"node": ""}},
	} {
		o.Execute = answers(0, "{}").execute
		if _, err := mustParse(t, example(t)).Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// A step's command gets no more time than the step has; the end of the walk's context ends the walk.
func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		hang := func(ctx context.Context, _ Call) Outcome { <-ctx.Done(); return Outcome{Exit: 3} }
		run, err := mustParse(t, example(t)).Run(t.Context(), Options{Execute: hang})
		if took := time.Since(began); err != nil || trail(run) != "look false: escalate" || took != time.Duration(defaultTimeout) {
			t.Errorf("%s after %s, %v", trail(run), took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		run, err = mustParse(t, example(t)).Run(ctx, Options{Execute: hang})
		if err != nil || run.Result != Fail || !strings.Contains(run.Reason, "interrupted") {
			t.Errorf("%s (%s), %v", trail(run), run.Reason, err)
		}
	})
}

// A jq program that does not end by itself ends with its step.
func TestEndlessJQ(t *testing.T) {
	text := strings.Replace(example(t), "jq: .margin >= 1\ncapture", "jq: 'last(repeat(1))'\ntimeout: 50ms\ncapture", 1)
	run, err := mustParse(t, text).Run(t.Context(), Options{Execute: answers(0, whole).execute})
	if err != nil || trail(run) != "look false: escalate" || !strings.Contains(run.Steps[0].Error, "deadline") {
		t.Errorf("%s, %+v, %v", trail(run), run, err)
	}
}

// A large answer is judged, and not kept.
func TestLargeAnswer(t *testing.T) {
	large := fmt.Sprintf(`{"margin":1,"x":%q}`, strings.Repeat("x", maxOutputBytes))
	run, err := mustParse(t, example(t)).Run(t.Context(), Options{Execute: answers(0, large).execute})
	if text, ok := run.Steps[0].Output.(string); err != nil || run.Result != Pass || !ok || !strings.Contains(text, "too many to keep") {
		t.Errorf("%s, %v, %v", trail(run), run.Steps[0].Output, err)
	}
}

// diary is what a Reporter was told.
type diary []string

func (d *diary) Begin(s *Step, command string) { *d = append(*d, "begin "+s.ID+" "+command) }
func (d *diary) Say(text string)               { *d = append(*d, "say "+text) }
func (d *diary) End(r StepResult) {
	*d = append(*d, fmt.Sprintf("end %s %s %s", r.ID, verdict(r), r.Branch))
}

// Whoever watches sees what is going to happen before it is asked for, with words that can be pasted.
func TestReporterSeesTheWalk(t *testing.T) {
	var d diary
	f := answers(0, broken).then(0, gone).then(0, whole).then(0, `{"would":"evict"}`).then(0, `{}`).then(0, whole)
	confirm := func(_ context.Context, question string) bool { d = append(d, "ask "+question); return true }
	if _, err := mustParse(t, example(t)).Run(t.Context(), Options{Execute: f.execute, Confirm: confirm, Report: &d}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"begin look parley core --expect '.margin >= 1'", "end look false which",
		`begin which parley node status a2 --expect '"a2" as $node | .name == $node and .reachable'`, "end which false evict",
		"begin evict parley evict a2 --reason 'it is gone'", "begin evict parley core --expect '.leader != null'",
		"say parley evict a2 --dry-run (exit 0):\n{\"would\":\"evict\"}", "say risk: high: it is gone", "ask Evict a2?", "end evict true whole",
		"begin whole parley core --wait 5m --expect '.margin >= 1'", "end whole true done",
	}
	if !slices.Equal(d, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(d, "\n"), strings.Join(want, "\n"))
	}
}
