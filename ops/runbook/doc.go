// Package runbook is the engine that reads, checks and walks runbooks. The common case is
//
//	library, err := runbook.Ours()
//	book, ok := library.Get("server-down")
//	...
//	run := book.Run(ctx, runbook.Options{Execute: execute, Confirm: confirm})
//
// A runbook is a Markdown file of package runbooks: front matter in YAML, eleven headings in a fixed order, and under
// Diagnose, Mitigate, Verify and Roll back the steps, each a fenced block with the language `step` that holds YAML.
// People read the file from top to bottom; a program walks the steps. Both see the same commands.
//
// A walk begins at the first diagnose step. A step runs one parley command and holds its exit code and its JSON, by a
// jq program, against what is expected; on_pass and on_fail say where to go: to a step by its id, to the next one, to
// verify (the first verify step), or out of the walk by done, escalate or not-this-runbook. The last one goes through
// the verify steps before it ends, because a wrong "not this" costs more than a second look. Steps that are for people
// (manual) hold a text instead of a command.
//
// What keeps a walk harmless: diagnose and verify steps, guards and dry runs are executed as read only, which the
// agent enforces; a step that changes something is confirmed first, and says its risk and how to undo it; a command is
// a list of words and never goes through a shell, and a value that was captured from an answer stays one word that
// cannot become a flag; the steps of a runbook have no circle, so every walk ends.
//
// Parse reports all problems of a file with their lines. Everything but run.go, run_step.go and ours.go is pure. A Runbook is not changed after
// Parse and safe for concurrent use; Run starts no goroutine and calls the functions of its Options from its own.
package runbook
