// Package command is parley's command line: the command tree, how answers are printed, and what a
// command exits with.
//
// Main runs the process's arguments. Tree returns the commands for whoever documents or checks them.
// Every command that asks an agent goes through (*app).ask, which gives it --output, --expect and
// --wait; commands return errors, and report in failure.go is the one place that prints them and chooses
// the exit code:
//
//	0  done
//	1  usage, not found, bad configuration, failed check
//	2  --expect was false, and nothing else
//	3  no agent, or no leader
//	4  denied, or guarded and not confirmed
//	5  a write that may or may not have happened
//
// Answers go to standard output, everything else to standard error. A process runs one command; nothing
// here is safe for concurrent use.
package command

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// app is one run of the command line: where it reads and writes, and the flags that all commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string

	output string // table, json, yaml or raw
	addr   string // --addr

	identity string        // --identity
	dataDir  string        // --data-dir
	expect   string        // --expect, a jq program
	wait     time.Duration // --wait

	readOnly bool // the agent is to refuse what would change something; no flag, runbooks set it

	slacken func() // before an agent runs in this process; nil: it takes the process as it is
}

// Main runs the command that os.Args names and returns the process's exit code.
func Main() int {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv, slacken: slacken}
	return a.run(context.Background(), os.Args[1:])
}

// Tree returns the command tree, for documentation and for checks of commands that are written elsewhere.
func Tree() *cobra.Command {
	return (&app{in: os.Stdin, out: io.Discard, err: io.Discard, getenv: os.Getenv}).tree()
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.tree()
	root.SetArgs(args)
	return a.report(root.ExecuteContext(ctx))
}

func (a *app) tree() *cobra.Command {
	root := group("parley", "One agent on each host: discovery, configuration, identity and health")
	root.Long = "Parley runs one agent on each host. The agents find each other, elect a core that keeps the\n" +
		"configuration, and secure every byte between them.\n\nTry it on this machine: parley lab"
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(flagError)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return a.checkGlobals(cmd) }

	flags := root.PersistentFlags()
	flags.StringVarP(&a.output, "output", "o", "table", "how to print the answer: table, json or yaml")
	flags.StringVar(&a.addr, "addr", "", "the agent to ask: unix:///path, http://host:port, https://host:port or rpc://host:port (default the admin socket in --data-dir if given, else $PARLEY_ADDR, else the admin socket in the default data directory)")
	flags.StringVar(&a.dataDir, "data-dir", "", "the agent's data directory (default "+defaultDataDirHelp+")")
	flags.StringVar(&a.identity, "identity", "", "directory of the identity to use over https, from operator add (default $PARLEY_IDENTITY, else that of this host's agent)")
	flags.StringVar(&a.expect, "expect", "", "a jq program for the JSON answer; exit with 2 unless it is true")
	flags.DurationVar(&a.wait, "wait", 0, "keep asking for up to this long until there is an answer and --expect is true")

	root.AddCommand(
		a.initCommand(), a.tokenCommand(), a.admissionCommand(), a.operatorCommand(), a.identityCommand(), a.caCommand(), a.evictCommand(), a.denyCommand(), a.agentCommand(), a.labCommand(),
		a.statusCommand(), a.membersCommand(), a.coreCommand(), a.leaveCommand(), a.kvCommand(), a.sessionCommand(),
		a.sloCommand(), a.alertsCommand(), a.healthCommand(),
		a.eventsCommand(), a.digestCommand(), a.invariantCommand(), a.debugCommand(), a.replayCommand(), a.applyCommand(), a.netCommand(), a.nodeCommand(),
		a.checkCommand(), a.storageCommand(), a.snapshotCommand(), a.disasterCommand(),
		a.runbookCommand(),
		a.configCommand(), a.versionCommand(),
	)
	root.SetHelpCommand(helpCommand())
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" { // cobra's own; it would take any word for a shell
			cmd.Args, cmd.RunE = noSuchCommand, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
	document(root)
	return root
}

// defaultDataDirHelp is the same text on every machine, so that help does not depend on who reads it.
const defaultDataDirHelp = "/var/lib/parley as root, else $XDG_STATE_HOME/parley"

// checkGlobals refuses a bad --output, --wait, --data-dir or --expect before anything is done.
func (a *app) checkGlobals(cmd *cobra.Command) error {
	if err := a.checkOutput(cmd); err != nil {
		return err
	}
	if a.wait < 0 {
		return usageError("like --wait 30s; leave it out to ask once", "--wait %s is negative", a.wait)
	}
	if cmd.Flags().Changed("data-dir") && a.dataDir == "" {
		return usageError("give a directory; a variable of the shell may be unset", "--data-dir is empty")
	}
	if cmd.Flags().Changed("identity") && a.identity == "" {
		return usageError("give a directory; a variable of the shell may be unset", "--identity is empty")
	}
	if cmd.Flags().Changed("expect") && blankProgram(a.expect) {
		return usageError("give a jq program; a variable of the shell may be unset", "--expect is empty")
	}
	_, err := compileExpect(a.expect)
	return err
}
