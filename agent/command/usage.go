package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/parley-mesh/parley/agent/config"
)

// group is a command that only holds others. Without arguments it prints its help; anything that is not
// one of its commands is an error that names the nearest one.
func group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  noSuchCommand,

		Annotations: map[string]string{groupMark: "yes"},
		RunE:        func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
}

// noSuchCommand is the Args of commands with sub-commands: what is left over was meant to be one.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	hint := fmt.Sprintf("`%s --help` lists the commands", cmd.CommandPath())
	if near := config.Nearest(args[0], names); near != "" {
		hint = fmt.Sprintf("did you mean `%s %s`?", cmd.CommandPath(), near)
	}
	return usageError(hint, "%s has no command %q", cmd.CommandPath(), args[0])
}

// helpCommand is cobra's, except that an unknown command is an error here as well.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return noSuchCommand(found, rest)
			}
			return found.Help()
		},
	}
}

// takes is the Args of commands with positional arguments. Names in brackets are optional.
func takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		usage := fmt.Sprintf("usage: %s", cmd.UseLine())
		for i, name := range names {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return usageError(usage, "%s needs %s", cmd.CommandPath(), name)
			}
		}
		if len(args) > len(names) {
			return usageError(usage, "%s does not take %q", cmd.CommandPath(), args[len(names)])
		}
		return nil
	}
}

// flagError turns what pflag found wrong into an error with the nearest flag as the hint.
func flagError(cmd *cobra.Command, err error) error {
	hint := fmt.Sprintf("`%s --help` lists the flags", cmd.CommandPath())
	if name, ok := strings.CutPrefix(err.Error(), "unknown flag: --"); ok {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := config.Nearest(name, names); near != "" {
			hint = fmt.Sprintf("did you mean --%s?", near)
		}
	}
	return usageError(hint, "%s: %s", cmd.CommandPath(), err)
}
