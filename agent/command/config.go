package command

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/agent/config"
)

func (a *app) configCommand() *cobra.Command {
	cmd := group("config", "Print or check the agent's configuration file")
	cmd.AddCommand(
		&cobra.Command{
			Use:   "default",
			Short: "Print an example file with every key and its default",
			Args:  takes(),
			RunE: func(*cobra.Command, []string) error {
				_, err := io.WriteString(a.out, config.Example())
				return err
			},
		},
		&cobra.Command{
			Use:   "check FILE",
			Short: "Check a configuration file without starting anything",
			Args:  takes("FILE"),
			RunE: func(cmd *cobra.Command, args []string) error {
				if _, err := config.Load(args[0]); err != nil {
					return err
				}
				return a.say(cmd, answer{
					value: map[string]any{"ok": true, "file": args[0]},
					table: func(w io.Writer) { row(w, args[0]+" is good") },
				})
			},
		},
	)
	return cmd
}
