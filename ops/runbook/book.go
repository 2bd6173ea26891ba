package runbook

import "slices"

// Schema is the version of the format that this package reads.
const Schema = 1

// Front is the front matter of a runbook.
type Front struct {
	Schema int    `yaml:"schema" json:"schema"`
	ID     string `yaml:"id" json:"id"`
	Title  string `yaml:"title" json:"title"`
	// FailureMode is a number of 1 to 27, or slo:NAME.
	FailureMode FailureMode `yaml:"failure_mode" json:"failure_mode"`
	FailTypes   []string    `yaml:"fail_types" json:"fail_types"`
	Layers      []string    `yaml:"layers" json:"layers"`
	Alerts      []string    `yaml:"alerts" json:"alerts"`
	Severity    string      `yaml:"severity" json:"severity"`
	DataAtRisk  string      `yaml:"data_at_risk" json:"data_at_risk"`
	Owner       Owner       `yaml:"owner" json:"owner"`
	Requires    Requires    `yaml:"requires" json:"requires"`
	// Automatic is what the agents do by themselves, Never what must not be done in this failure.
	Automatic []string `yaml:"automatic" json:"automatic"`
	Never     []string `yaml:"never" json:"never"`
	Budget    Budget   `yaml:"budget" json:"budget"`
	Drill     Drill    `yaml:"drill" json:"drill"`
	Related   []string `yaml:"related" json:"related"`
}

// Owner says who looks after the failure, and when to call whom.
type Owner struct {
	Group    string   `yaml:"group" json:"group"`
	Escalate string   `yaml:"escalate" json:"escalate"`
	After    Duration `yaml:"after" json:"after"`
}

// Requires is what the runbook's steps need; the text of a runbook never needs anything.
type Requires struct {
	Quorum bool   `yaml:"quorum" json:"quorum"`
	TLS    bool   `yaml:"tls" json:"tls"`
	Role   string `yaml:"role" json:"role"`
}

// Budget is how long each part may take; no step may wait longer.
type Budget struct {
	Diagnose Duration `yaml:"diagnose" json:"diagnose"`
	Mitigate Duration `yaml:"mitigate" json:"mitigate"`
	Verify   Duration `yaml:"verify" json:"verify"`
}

// Drill names the exercise that proves the runbook.
type Drill struct {
	ID      string `yaml:"id" json:"id"`
	Inject  string `yaml:"inject" json:"inject"`
	Control string `yaml:"control" json:"control"`
}

// Runbook is a parsed and valid runbook. Make one with Parse.
type Runbook struct {
	Front
	Sections []Section
	Steps    []Step // in the order of the file
	Source   []byte // the file

	byID   map[string]int
	edges  [][2]target // where each step leads to: on_pass, on_fail
	names  []string    // of all variables
	inputs []string    // of those that no step captures
}

// Section is a heading with the Markdown under it, the blocks of steps included.
type Section struct {
	Heading string `json:"heading"`
	Text    string `json:"text"`

	line  int // of the heading in the file
	steps []int
}

// Kind is what a step is for.
type Kind string

// The kinds of steps.
const (
	Diagnose Kind = "diagnose"
	Mitigate Kind = "mitigate"
	Verify   Kind = "verify"
	Rollback Kind = "rollback"
)

// ReadOnly reports whether steps of this kind may change nothing.
func (k Kind) ReadOnly() bool { return k == Diagnose || k == Verify }

// Step is one step of a runbook.
type Step struct {
	ID   string `yaml:"id" json:"id"`
	Kind Kind   `yaml:"kind" json:"kind"`
	// Run is a parley command line; {{name}} stands for a variable's value.
	Run string `yaml:"run" json:"run,omitempty"`
	// Manual marks a step that only a person can do; Text says what.
	Manual  bool   `yaml:"manual" json:"manual,omitempty"`
	Text    string `yaml:"text" json:"text,omitempty"`
	Expect  Expect `yaml:"expect" json:"expect"`
	Explain string `yaml:"explain" json:"explain,omitempty"`
	// Capture sets variables by jq programs from the answer, whether or not it is as expected.
	Capture map[string]string `yaml:"capture" json:"capture,omitempty"`
	Timeout Duration          `yaml:"timeout" json:"timeout"`
	OnPass  string            `yaml:"on_pass" json:"on_pass"`
	OnFail  string            `yaml:"on_fail" json:"on_fail"`

	// Risk, Confirm and Rollback are for steps that change something. Risk begins with none, low, medium or high.
	// Confirm is the question that is asked before (of a manual step: afterwards). Rollback is the id of a rollback
	// step, or "none: " and the reason.
	Risk     string `yaml:"risk" json:"risk,omitempty"`
	Confirm  string `yaml:"confirm" json:"confirm,omitempty"`
	Rollback string `yaml:"rollback" json:"rollback,omitempty"`
	// Idempotent steps are done once more when nobody can say whether they happened (exit code 5).
	Idempotent bool `yaml:"idempotent" json:"idempotent,omitempty"`
	// DryRun is a command line that shows what Run would do.
	DryRun string `yaml:"dry_run" json:"dry_run,omitempty"`
	// Guard is looked at right before Run, which is left out when it is not as expected.
	Guard *Guard `yaml:"guard" json:"guard,omitempty"`

	line int // of the block's first line in the file
}

// Expect says how a command must end.
type Expect struct {
	Exit int    `yaml:"exit" json:"exit"`
	JQ   string `yaml:"jq" json:"jq,omitempty"`
}

// Guard is a condition of a step that changes something.
type Guard struct {
	Run    string `yaml:"run" json:"run"`
	Expect Expect `yaml:"expect" json:"expect"`
}

// Command is one of the command lines of a step.
type Command struct {
	Line     string
	Expect   Expect
	Captures []string // jq programs over the answer
	ReadOnly bool
}

// Commands are the command lines of a step: its run, guard and dry run, as far as there are any.
func (s *Step) Commands() []Command {
	var all []Command
	if s.Run != "" {
		c := Command{Line: s.Run, Expect: s.Expect, ReadOnly: s.Kind.ReadOnly()}
		for _, program := range s.Capture {
			c.Captures = append(c.Captures, program)
		}
		slices.Sort(c.Captures)
		all = append(all, c)
	}
	if s.Guard != nil {
		all = append(all, Command{Line: s.Guard.Run, Expect: s.Guard.Expect, ReadOnly: true})
	}
	if s.DryRun != "" {
		all = append(all, Command{Line: s.DryRun, ReadOnly: true})
	}
	return all
}

// Step returns the step with that id, nil if there is none. It must not be changed.
func (b *Runbook) Step(id string) *Step {
	i, ok := b.byID[id]
	if !ok {
		return nil
	}
	return &b.Steps[i]
}

// Section returns the text under a heading.
func (b *Runbook) Section(heading string) string {
	for _, s := range b.Sections {
		if s.Heading == heading {
			return s.Text
		}
	}
	return ""
}

// Variables are the names of all variables.
func (b *Runbook) Variables() []string { return slices.Clone(b.names) }

// Inputs are the variables that no step captures: whoever runs the runbook gives them, when a step asks for one.
func (b *Runbook) Inputs() []string { return slices.Clone(b.inputs) }
