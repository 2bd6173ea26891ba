package runbook

import (
	"context"
	"slices"
	"strings"
	"testing"
)

// What no step can find out is asked for before the first command, and where nobody answers the walk says what it is
// going to miss, and with which command it goes on: it used to break off half way without a word before.
func TestInputsComeFirst(t *testing.T) {
	text := strings.Replace(example(t), "parley node status {{node}}", "parley node status {{node}} --addr {{place}}", 1)
	b := mustParse(t, text)
	if !slices.Equal(b.Inputs(), []string{"place"}) {
		t.Fatalf("inputs %q", b.Inputs())
	}
	walk := func(f *fake, o Options) (Run, diary) {
		t.Helper()
		var d diary
		o.Execute, o.Report = f.execute, &d
		run, err := b.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return run, d
	}
	f := answers(0, broken)
	run, d := walk(f, Options{})
	if run.Result != Fail || !strings.Contains(run.Reason, "parley runbook run example --from which --var node=a2 --var place=VALUE") {
		t.Errorf("stopped with %q", run.Reason)
	}
	if len(d) < 3 || !strings.Contains(d[0], `the step which needs "place"`) ||
		!strings.Contains(d[1], "parley runbook run example --var place=VALUE") || !strings.HasPrefix(d[2], "begin look") {
		t.Errorf("told %q", d)
	}

	f = answers(0, broken).then(0, there).then(0, whole)
	before := -1
	ask := func(context.Context, string) (string, bool) { before = len(f.calls); return "unix:///a", true }
	if run, _ := walk(f, Options{Ask: ask, Confirm: yes}); run.Result != Pass || before != 0 || !strings.Contains(f.asked(), "--addr unix:///a") {
		t.Errorf("asked behind %d commands: %s\n%s", before, trail(run), f.asked())
	}

	// Control: a walk that does not need it is not held up, and one that has it, or begins behind it, hears nothing.
	if run, _ := walk(answers(0, whole), Options{}); run.Result != Pass {
		t.Errorf("healthy: %s", trail(run))
	}
	for _, o := range []Options{{Vars: map[string]string{"place": "unix:///a"}}, {From: "verify"}} {
		if _, d := walk(answers(0, whole), o); strings.HasPrefix(d[0], "say") {
			t.Errorf("%+v: told %q", o, d[0])
		}
	}
}
