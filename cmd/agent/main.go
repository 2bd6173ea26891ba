// Command agent is parley: the daemon, and the commands that talk to it. Build it as parley. Called by the name consul
// it takes the command line that programs expect behind that name.
package main

import (
	"os"

	"github.com/parley-mesh/parley/agent/command"
	"github.com/parley-mesh/parley/agent/command/consul"
)

func main() {
	if consul.Called(os.Args) {
		os.Exit(consul.Main())
	}
	os.Exit(command.Main())
}
