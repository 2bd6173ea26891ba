package command

import (
	"errors"
	"io"

	"github.com/spf13/cobra"
)

// epochStep is what a command does that makes this host the core of a new epoch.
type epochStep struct {
	report      any
	radius      string // what is at stake
	cluster     string // the name that is asked for
	yes, dryRun bool
	done        func(io.Writer) // says afterwards what was done
}

// beginEpoch does the step that what was opened has prepared, unless it is a dry run or nobody confirms it.
func (a *app) beginEpoch(cmd *cobra.Command, opened interface {
	Do() error
	Close() error
}, s epochStep) (err error) {
	defer func() { err = errors.Join(err, opened.Close()) }()
	said := answer{value: s.report, table: func(w io.Writer) { row(w, s.radius) }}
	if s.dryRun {
		return a.say(cmd, said)
	}
	if err := a.confirmName(s.yes, s.radius, s.cluster); err != nil {
		return err
	}
	if err := opened.Do(); err != nil {
		return err
	}
	said.table = s.done
	return a.say(cmd, said)
}
