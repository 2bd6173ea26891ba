// Package consul is the program when it is called consul: enough of that command line for the tests of existing clients
// and for a trial on one machine. It understands
//
//	consul version -format=json
//	consul agent -config-file FILE [-config-file FILE ...] [-config-dir DIR] [-dev] [FLAGS]
//
// translates configuration and flags to ours, and runs a cluster of this one agent on loopback, in a data directory that
// it made itself. Callers on loopback need no identity there (role operator), which it says at start. A key or flag that
// it does not know is refused; what it takes and does not use has its reason in keys.go.
//
// Nothing here decides anything for the agent below: it only makes a config.Config. A process runs one command; nothing
// is safe for concurrent use.
package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/parley-mesh/parley/agent/command"
	dialect "github.com/parley-mesh/parley/api/consul"
)

// program is the name by which this package is meant.
const program = "consul"

// Called reports whether the program was called by that name: args are the process's, with argv[0].
func Called(args []string) bool { return len(args) > 0 && filepath.Base(args[0]) == program }

// Main runs the command that os.Args names and returns the process's exit code.
func Main() int {
	return command.Report(os.Stderr, run(context.Background(), os.Args[1:], os.Stdout))
}

func run(ctx context.Context, args []string, out io.Writer) error {
	name := ""
	if len(args) > 0 {
		name = strings.TrimLeft(args[0], "-")
	}
	switch name {
	case "version", "v":
		return version(args[1:], out)
	case "agent":
		return runAgent(ctx, args[1:])
	case "", "help", "h":
		_, err := fmt.Fprint(out, usage)
		return err
	}
	return command.UsageError("as parley the same program has commands of its own: parley --help",
		"this consul is parley and has no command %q, only version and agent", args[0])
}

const usage = `This is parley, called by the name consul: a throw-away cluster of one agent on loopback for programs that
bring a configuration of Consul's, such as the tests of its clients.

  consul version [-format=json]
  consul agent [-dev | -data-dir DIR] [-config-file FILE ...] [-config-dir DIR ...] [-http-port N] ...

A cluster that is meant to stay is made with parley init and parley agent.
`

func version(args []string, out io.Writer) error {
	if strings.Contains(strings.Join(args, "="), "format=json") {
		return json.NewEncoder(out).Encode(map[string]string{"Version": dialect.Version})
	}
	_, err := fmt.Fprintf(out, "Consul v%s\nThis is parley, which speaks the dialect of that version.\n", dialect.Version)
	return err
}
