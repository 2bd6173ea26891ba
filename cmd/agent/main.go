// Command agent is parley: the daemon, and the commands that talk to it. Build it as parley.
package main

import (
	"os"

	"github.com/parley-mesh/parley/agent/command"
)

func main() { os.Exit(command.Main()) }
