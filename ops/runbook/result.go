package runbook

// Result is how a walk ended.
type Result string

// The results.
const (
	Pass     Result = "pass"     // the verify steps say that the failure is not there
	Fail     Result = "fail"     // the walk could not go on; Reason says why
	Escalate Result = "escalate" // the runbook knows no more: call the owner
	// Unverified is the end of a dry run that left something out: it shows the way, and nothing is known to be mended.
	Unverified Result = "unverified"
)

// Run is what a walk did.
type Run struct {
	ID     string `json:"id"`
	Result Result `json:"result"`
	// NotThis: a diagnose step said that the failure is another one.
	NotThis bool         `json:"not_this"`
	DryRun  bool         `json:"dry_run"`
	Reason  string       `json:"reason,omitempty"`
	Steps   []StepResult `json:"steps"`
	// Notes are what else there is to know at the end. Whoever called Run adds them.
	Notes []string `json:"notes,omitempty"`

	// Refused: a guard, or whoever was asked, said no.
	Refused bool `json:"-"`
}

// StepResult is one step of a walk.
type StepResult struct {
	ID      string `json:"id"`
	Kind    Kind   `json:"kind"`
	Command string `json:"command"` // as it can be pasted; empty for what a person does
	Exit    *int   `json:"exit"`    // null when nothing was executed
	OK      *bool  `json:"ok"`      // null when the step was left out, so that nobody knows
	Branch  string `json:"branch"`  // the id of the step that followed, or the word that ended the walk
	Output  any    `json:"output"`  // the JSON of the answer, null when there was none
	Error   string `json:"error,omitempty"`

	// answered: there was an answer, so that "no" is more than silence.
	answered bool
}

// Reporter sees a walk while it happens. Its methods are called one after another.
type Reporter interface {
	// Begin is called before anything of a step is done. command is empty for what a person does.
	Begin(s *Step, command string)
	// Say is a text for a person: what to do by hand, or why something is left out.
	Say(text string)
	// End is called when it is known where the walk goes on.
	End(r StepResult)
}

// Passed reports a step that is known to be as expected.
func (r StepResult) Passed() bool { return r.OK != nil && *r.OK }

// set notes how the step ended.
func (r *StepResult) set(ok bool) { r.OK = &ok }
