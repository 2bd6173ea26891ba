package consul

import (
	"errors"
	"flag"
	"io"
	"strconv"

	"github.com/parley-mesh/parley/agent/command"
)

// maxFiles bounds the configuration files of one run.
const maxFiles = 64

// given is what the command line says: sources in their order, and what the flags set above all of them.
type given struct {
	sources []source
	tree    map[string]any // as a configuration file would say it
	dev     bool
}

// source is a configuration file or a directory of them.
type source struct {
	path string
	dir  bool
}

// flagKeys are the flags that say the same as a key.
var flagKeys = []struct {
	flag string
	path []string
	kind func(string) (any, error)
}{
	{"data-dir", []string{"data_dir"}, text}, {"node", []string{"node_name"}, text}, {"node-id", []string{"node_id"}, text},
	{"datacenter", []string{"datacenter"}, text}, {"bind", []string{"bind_addr"}, text},
	{"advertise", []string{"advertise_addr"}, text}, {"client", []string{"client_addr"}, text},
	{"log-level", []string{"log_level"}, text}, {"encrypt", []string{"encrypt"}, text},
	{"http-port", []string{"ports", "http"}, number}, {"https-port", []string{"ports", "https"}, number},
	{"dns-port", []string{"ports", "dns"}, number}, {"server-port", []string{"ports", "server"}, number},
	{"serf-lan-port", []string{"ports", "serf_lan"}, number}, {"serf-wan-port", []string{"ports", "serf_wan"}, number},
	{"grpc-port", []string{"ports", "grpc"}, number}, {"grpc-tls-port", []string{"ports", "grpc_tls"}, number},
	{"raft-protocol", []string{"raft_protocol"}, number}, {"bootstrap-expect", []string{"bootstrap_expect"}, number},
}

// flagSwitches are those that stand alone.
var flagSwitches = map[string]string{
	"server": "server", "bootstrap": "bootstrap", "ui": "ui", "enable-script-checks": "enable_script_checks",
}

func text(s string) (any, error) { return s, nil }

func number(s string) (any, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	return float64(n), err // as JSON has it
}

func parseFlags(args []string) (given, error) {
	g := given{tree: map[string]any{}}
	flags := flag.NewFlagSet(program+" agent", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	add := func(dir bool) func(string) error {
		return func(path string) error {
			g.sources = append(g.sources, source{path, dir})
			return nil
		}
	}
	flags.Func("config-file", "", add(false))
	flags.Func("config-dir", "", add(true))
	flags.BoolVar(&g.dev, "dev", false, "")
	for _, f := range flagKeys {
		flags.Func(f.flag, "", func(value string) error {
			v, err := f.kind(value)
			put(g.tree, f.path, v)
			return err
		})
	}
	for name, key := range flagSwitches {
		flags.BoolFunc(name, "", func(value string) error {
			on, err := strconv.ParseBool(value)
			put(g.tree, []string{key}, on)
			return err
		})
	}
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return g, command.UsageError("consul help", "consul agent takes the flags of Consul that make sense for one agent on loopback")
	case err != nil:
		return g, command.UsageError("the flags of a real cluster are those of parley agent --help", "consul agent: %v", err)
	case flags.NArg() > 0:
		return g, command.UsageError("flags begin with a dash", "consul agent takes no arguments, such as %q", flags.Arg(0))
	}
	return g, nil
}

// put sets the value at path, as merge would.
func put(tree map[string]any, path []string, value any) {
	for _, name := range path[:len(path)-1] {
		next, ok := tree[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			tree[name] = next
		}
		tree = next
	}
	tree[path[len(path)-1]] = value
}
