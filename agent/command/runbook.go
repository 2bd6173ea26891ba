package command

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/ops/runbook"
)

func (a *app) runbookCommand() *cobra.Command {
	cmd := group("runbook", "What to do about an alert: list, read and run the runbooks")
	cmd.Long = "The runbooks are part of this program: listing and reading them needs no agent, no network and no cluster."
	cmd.AddCommand(a.runbookListCommand(), a.runbookShowCommand(), a.runbookRunCommand())
	return cmd
}

func (a *app) runbookListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "The runbooks, and the alerts that they are for",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			library, err := runbook.Ours()
			if err != nil {
				return err
			}
			books := library.List()
			return a.say(cmd, answer{value: books, table: func(w io.Writer) {
				row(w, "ID", "SEVERITY", "TITLE", "ALERTS")
				for _, b := range books {
					row(w, b.ID, b.Severity, b.Title, strings.Join(b.Alerts, " "))
				}
			}})
		},
	}
}

func (a *app) runbookShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Read one runbook",
		Example: "  parley runbook show server-down | less",
		Args:    takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			book, err := findRunbook(args[0])
			if err != nil {
				return err
			}
			return a.say(cmd, answer{value: book.Whole(), table: func(w io.Writer) { _, _ = w.Write(book.Source) }})
		},
	}
}

func findRunbook(id string) (*runbook.Runbook, error) {
	library, err := runbook.Ours()
	if err != nil {
		return nil, err
	}
	book, ok := library.Get(id)
	if ok {
		return book, nil
	}
	hint := "`parley runbook list` shows all"
	if near := config.Nearest(id, library.IDs()); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	return nil, usageError(hint, "there is no runbook %q", id)
}
