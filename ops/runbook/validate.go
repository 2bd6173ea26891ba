package runbook

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// defaultTimeout is for steps that give none.
const defaultTimeout = Duration(30 * time.Second)

// noRollback begins a rollback that says why there is none.
const noRollback = "none: "

var (
	severities = []string{"page", "warn", "ticket"}
	roles      = []string{"none", "discovery", "local", "operator"}
	risks      = []string{"none", "low", "medium", "high"}
)

// validate looks at the whole runbook once its parts could be read.
func (p *parser) validate() {
	p.front()
	p.sections()
	for i := range p.book.Steps {
		p.fields(&p.book.Steps[i])
	}
	p.variables()
	if len(p.problems) == 0 {
		p.graph()
	}
}

func (p *parser) front() {
	const at = 2
	f := &p.book.Front
	if f.Schema != Schema {
		p.fail(at, "schema is %d, this program reads %d", f.Schema, Schema)
	}
	if !idPattern.MatchString(f.ID) || f.ID+".md" != p.file {
		p.fail(at, "the id %q and the file's name differ, or it is not of small letters, digits and -", f.ID)
	}
	for _, field := range []struct {
		name, value string
		limit       int
	}{
		{"title", f.Title, maxTitle},
		{"failure_mode", string(f.FailureMode), maxTitle},
		{"data_at_risk", f.DataAtRisk, maxText},
		{"owner.group", f.Owner.Group, maxTitle},
		{"owner.escalate", f.Owner.Escalate, maxText},
		{"drill.id", f.Drill.ID, maxTitle},
		{"drill.inject", f.Drill.Inject, maxText},
		{"drill.control", f.Drill.Control, maxText},
	} {
		p.needs(at, field.name, field.value, field.limit)
	}
	for name, list := range map[string][]string{
		"fail_types": f.FailTypes, "layers": f.Layers, "alerts": f.Alerts, "automatic": f.Automatic, "never": f.Never,
	} {
		p.list(at, name, list)
		if len(list) == 0 {
			p.fail(at, "%s is empty", name)
		}
	}
	p.list(at, "related", f.Related)
	p.oneOf(at, "severity", f.Severity, severities)
	p.oneOf(at, "requires.role", f.Requires.Role, roles)
	if f.Owner.After <= 0 || f.Budget.Diagnose <= 0 || f.Budget.Mitigate <= 0 || f.Budget.Verify <= 0 {
		p.fail(at, "owner.after and the three of budget are durations such as 5m")
	}
}

func (p *parser) needs(line int, name, value string, limit int) {
	switch {
	case strings.TrimSpace(value) == "":
		p.fail(line, "%s is missing", name)
	case len(value) > limit:
		p.fail(line, "%s has %d bytes, at most %d", name, len(value), limit)
	}
}

func (p *parser) list(line int, name string, list []string) {
	if len(list) > MaxItems {
		p.fail(line, "%s has %d entries, at most %d", name, len(list), MaxItems)
	}
	for _, each := range list {
		p.needs(line, "an entry of "+name, each, maxText)
	}
}

func (p *parser) oneOf(line int, name, value string, allowed []string) {
	if !slices.Contains(allowed, value) {
		p.fail(line, "%s is %q, not one of %s", name, value, strings.Join(allowed, ", "))
	}
}

func (p *parser) sections() {
	for i, s := range p.book.Sections {
		if i >= len(headings) || s.Heading != headings[i].name {
			want := "no more headings"
			if i < len(headings) {
				want = "## " + headings[i].name
			}
			p.fail(s.line, "the heading is %q, want %s: all runbooks have the same, in the same order", s.Heading, want)
			return
		}
		if s.Text == "" {
			p.fail(s.line, "there is nothing under ## %s", s.Heading)
		}
		for _, step := range s.steps {
			if k := p.book.Steps[step].Kind; k != headings[i].steps || k == "" {
				p.fail(p.book.Steps[step].line, "a %s step under ## %s", k, s.Heading)
			}
		}
	}
	if n := len(p.book.Sections); n < len(headings) {
		p.fail(1, "the heading ## %s is missing", headings[n].name)
	}
	if text := p.book.Section("Summary"); strings.Count(text, "\n") > 2 {
		p.fail(1, "the summary has more than 3 lines: who reads it was asleep a minute ago")
	}
}

// fields looks at one step by itself.
func (p *parser) fields(s *Step) {
	at := s.line
	if !idPattern.MatchString(s.ID) || slices.Contains(words, s.ID) {
		p.fail(at, "the id %q is a word with a meaning, or not of small letters, digits and -", s.ID)
	}
	if s.Manual == (s.Run != "") || s.Manual != (s.Text != "") {
		p.fail(at, "step %s: either `run`, or `manual: true` with `text`", s.ID)
	}
	if s.Manual && (s.Kind.ReadOnly() || s.Expect != Expect{} || len(s.Capture) > 0 || s.Guard != nil || s.DryRun != "") {
		p.fail(at, "step %s: only mitigate and rollback steps are manual, and nothing of a manual step is executed", s.ID)
	}
	p.needs(at, "explain of step "+s.ID, s.Explain, maxText)
	for name, value := range map[string]string{"run": s.Run, "text": s.Text, "dry_run": s.DryRun, "risk": s.Risk, "confirm": s.Confirm, "rollback": s.Rollback} {
		if len(value) > maxText {
			p.fail(at, "%s of step %s has %d bytes, at most %d", name, s.ID, len(value), maxText)
		}
	}
	if s.OnPass == "" || s.OnFail == "" {
		p.fail(at, "step %s: on_pass and on_fail say where to go", s.ID)
	}
	p.timeout(s)
	for _, c := range s.Commands() {
		p.line(s, c)
	}
	if s.Kind.ReadOnly() {
		if s.Risk != "" || s.Confirm != "" || s.Rollback != "" || s.DryRun != "" || s.Guard != nil || s.Idempotent {
			p.fail(at, "step %s: a %s step changes nothing and has no risk, confirm, rollback, idempotent, dry_run or guard", s.ID, s.Kind)
		}
		return
	}
	p.careful(s)
}

// timeout gives the default, and holds the step to the budget of its part. A command that waits is not cut off.
func (p *parser) timeout(s *Step) {
	args, _ := SplitCommand(s.Run) // what cannot be split is reported elsewhere
	waits := waitOf(args)
	if s.Timeout == 0 {
		s.Timeout = waits + defaultTimeout
	}
	if s.Timeout <= waits {
		p.fail(s.line, "step %s waits for %s and has a timeout of %s", s.ID, waits, s.Timeout)
	}
	budget := map[Kind]Duration{
		Diagnose: p.book.Budget.Diagnose, Mitigate: p.book.Budget.Mitigate, Verify: p.book.Budget.Verify, Rollback: p.book.Budget.Mitigate,
	}
	if limit := budget[s.Kind]; s.Timeout > limit && limit > 0 {
		p.fail(s.line, "step %s may take %s, its part has a budget of %s", s.ID, s.Timeout, limit)
	}
}

// waitOf is the duration behind --wait, 0 if there is none that can be read; the command itself refuses a bad one.
func waitOf(args []string) Duration {
	for i, arg := range args {
		value, joined := strings.CutPrefix(arg, "--wait=")
		if arg == "--wait" && i+1 < len(args) {
			value, joined = args[i+1], true
		}
		if waits, err := time.ParseDuration(value); joined && err == nil {
			return Duration(waits)
		}
	}
	return 0
}

func isWait(arg string) bool { return arg == "--wait" || strings.HasPrefix(arg, "--wait=") }

// line looks at one command line and what is expected of it.
func (p *parser) line(s *Step, c Command) {
	args, err := SplitCommand(c.Line)
	if err != nil {
		p.fail(s.line, "step %s: %q: %v", s.ID, c.Line, err)
		return
	}
	for _, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		switch name {
		case "-o", "--output", "--expect":
			p.fail(s.line, "step %s: leave %s out: the answer is always JSON, and held against the step's `expect`", s.ID, name)
		}
	}
	if c.Expect.Exit < 0 || c.Expect.Exit > 5 || slices.ContainsFunc(args, isWait) && c.Expect.Exit != 0 {
		p.fail(s.line, "step %s: exit is 0 to 5, and 0 with --wait", s.ID)
	}
	if c.Expect.Exit == 2 {
		p.fail(s.line, "step %s: exit 2 is a false --expect, which is not used here", s.ID)
	}
	for _, program := range append([]string{c.Expect.JQ}, c.Captures...) {
		if len(program) > maxText {
			p.fail(s.line, "step %s: a jq program has %d bytes, at most %d", s.ID, len(program), maxText)
		}
	}
}

// careful is for steps that change something.
func (p *parser) careful(s *Step) {
	if s.Kind != Mitigate && s.Kind != Rollback {
		p.fail(s.line, "step %s: the kind is %q, not diagnose, mitigate, verify or rollback", s.ID, s.Kind)
		return
	}
	level, why, found := strings.Cut(s.Risk, ": ")
	if !found || !slices.Contains(risks, level) || strings.TrimSpace(why) == "" {
		p.fail(s.line, "step %s: risk is %q, want one of %s, then a colon and what can happen", s.ID, s.Risk, strings.Join(risks, ", "))
	}
	p.needs(s.line, "confirm of step "+s.ID, s.Confirm, maxText)
	if s.Kind == Rollback {
		return
	}
	reason, none := strings.CutPrefix(s.Rollback, noRollback)
	if none && strings.TrimSpace(reason) != "" {
		return
	}
	if back := p.book.Step(s.Rollback); back == nil || back.Kind != Rollback {
		p.fail(s.line, "step %s: rollback is %q, want the id of a rollback step, or \"%sREASON\"", s.ID, s.Rollback, noRollback)
	}
}

// variables finds out which there are, and compiles every jq program with them.
func (p *parser) variables() {
	used, captured := make(map[string]bool), make(map[string]bool)
	for i := range p.book.Steps {
		s := &p.book.Steps[i]
		if len(s.Capture) > MaxItems {
			p.fail(s.line, "step %s captures %d variables, at most %d", s.ID, len(s.Capture), MaxItems)
		}
		for name := range s.Capture {
			if !variablePattern.MatchString(name) {
				p.fail(s.line, "step %s: %q is no name of a variable: small letters, digits and _", s.ID, name)
			}
			captured[name] = true
		}
		texts := []string{s.Text, s.Confirm}
		for _, c := range s.Commands() {
			texts = append(texts, c.Line)
		}
		for _, text := range texts {
			names, err := placeholders(text)
			if err != nil {
				p.fail(s.line, "step %s: %v", s.ID, err)
			}
			for _, name := range names {
				used[name] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if !captured[name] {
			p.book.inputs = append(p.book.inputs, name)
		}
		captured[name] = true
	}
	p.book.names = slices.Sorted(maps.Keys(captured))
	p.programs()
}

func (p *parser) programs() {
	values := make(map[string]string)
	for _, name := range p.book.names {
		values[name] = ""
	}
	for i := range p.book.Steps {
		s := &p.book.Steps[i]
		for _, c := range s.Commands() {
			for _, program := range append([]string{c.Expect.JQ}, c.Captures...) {
				if program == "" {
					continue
				}
				if _, err := compile(program, values); err != nil {
					p.fail(s.line, "step %s: jq %q: %v", s.ID, program, err)
				}
			}
		}
	}
}
