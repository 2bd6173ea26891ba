package command

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent"
	"github.com/parley-mesh/parley/agent/config"
)

// agentFlags are the keys of the configuration that have a flag of their own; --set reaches the others.
var agentFlags = []struct{ flag, key, help string }{
	{"name", "name", "this agent's name (default what the data directory holds, else the host name)"},
	{"zone", "zone", "failure domain of this host"},
	{"profile", "profile", "defaults for a situation: default, or beside-consul (http on 127.0.0.1:18500, dns on 127.0.0.1:18600)"},
	{"join", "join", "mesh addresses of agents to join by, separated by commas"},
	{"token-file", "token_file", "file with the join token; ignored once joined"},
	{"bind", "mesh.bind", "address of the mesh port (default 0.0.0.0:8310)"},
	{"advertise", "mesh.advertise", "address that other agents use to reach this one"},
	{"http", "http.bind", "address of the API for this host (default 127.0.0.1:8500)"},
	{"http-anonymous", "http.anonymous_role", "what callers without an identity may do: none, discovery, local or operator"},
	{"https", "https.bind", "address of the API for other hosts, by mutual TLS (default off)"},
	{"dns", "dns.bind", "reserved: address of the name service; nothing listens there yet (default 127.0.0.1:8600)"},
	{"log-level", "log.level", "debug, info, warn or error"},
	{"log-format", "log.format", "console or json"},
}

func (a *app) agentCommand() *cobra.Command {
	var token string
	var settings agentSettings
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent on this host",
		Long: "The agent joins its cluster if it has not yet, and serves until it is told to stop (SIGINT or SIGTERM;\n" +
			"a second one does not wait for the hand-over). Flags win over the configuration file.",
		Example: "  parley agent --config /etc/parley/parley.toml --data-dir /var/lib/parley\n" +
			"  parley agent --join 10.0.0.1:8310 --token-file /etc/parley/token",
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.slacken != nil {
				a.slacken() // before anything is read: a configuration that comes through a pipe is there once
			}
			if token != "" && cmd.Flags().Changed("token-file") {
				return usageError("keep --token-file", "--token and --token-file exclude each other")
			}
			cfg, err := a.load(cmd, settings)
			if err != nil {
				return err
			}
			cfg.Token = token
			return a.serve(cmd.Context(), cfg, func(*zap.Logger) {})
		},
	}
	cmd.Flags().StringVar(&token, "token", "", "the join token itself; other users of this host can see it, prefer --token-file")
	settings.register(cmd)
	cmd.AddCommand(a.agentRoleCommand(), a.agentTrustCommand())
	return cmd
}

// overrides collects what the flags say, those with a name of their own last.
func (a *app) overrides(cmd *cobra.Command, settings []string) ([]config.Override, error) {
	var list []config.Override
	for _, s := range settings {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, usageError("like --set core.replace_after=5m", "--set %q is not key=value", s)
		}
		list = append(list, config.Override{Key: key, Value: value, Source: "--set " + key})
	}
	if cmd.Flags().Changed("data-dir") {
		list = append(list, config.Override{Key: "data_dir", Value: a.dataDir, Source: "--data-dir"})
	}
	for _, f := range agentFlags {
		if flag := cmd.Flags().Lookup(f.flag); flag.Changed {
			list = append(list, config.Override{Key: f.key, Value: flag.Value.String(), Source: "--" + f.flag})
		}
	}
	return list, nil
}

// serve runs the agent until a signal or an error ends it. It calls first with the log.
func (a *app) serve(ctx context.Context, cfg config.Config, first func(*zap.Logger)) error {
	log, err := newLogger(cfg.Log, a.err)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }() // standard error has nothing to sync on most systems
	first(log)
	warnOfRights(log, cfg.HTTP)
	tell := func(state string) {
		if err := notify(a.getenv, state); err != nil {
			log.Warn("systemd was not notified", zap.String("state", state), zap.Error(err))
		}
	}
	ready := make(chan struct{})
	running, err := agent.New(cfg, agent.Options{
		Log: log, Version: readBuildInfo().Version, Ready: func() { tell("READY=1"); close(ready) },
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	ended := make(chan error, 1)
	go func() { ended <- running.Run(ctx) }()
	go a.paceCollections(ctx, ready)
	return supervise(signals, ended, log, func() {
		tell("STOPPING=1")
		stop()
	})
}

// warnOfRights says so when callers without an identity may do more than the default.
func warnOfRights(log *zap.Logger, http config.HTTP) {
	if role := http.AnonymousRole; role == "local" || role == "operator" {
		log.Warn("callers on this host need no identity for more than the default", zap.String("role", role), zap.String("addr", http.Bind))
	}
}

// secondSignal is how soon after the first a signal still counts as the same one: a wrapper such as
// timeout(1) signals the process and its group, which arrives twice.
const secondSignal = 500 * time.Millisecond

// supervise returns when the agent has ended. The first SIGINT or SIGTERM asks it to; a second one gives
// up on it, and the process ends with the agent still running.
func supervise(signals <-chan os.Signal, ended <-chan error, log *zap.Logger, stop func()) error {
	stopping, again := false, (<-chan time.Time)(nil)
	for {
		select {
		case err := <-ended:
			return err
		case <-again:
			again = nil
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP:
				log.Info("hangup ignored; restart the agent to read its configuration again")
			case stopping && again != nil:
				// Too soon to be a second thought.
			case stopping:
				return &failure{code: exitFailed, err: errors.New("a second signal ended the agent before it had handed over")}
			default:
				log.Info("stopping; a second signal does not wait", zap.Stringer("signal", s))
				stopping, again = true, time.After(secondSignal)
				stop()
			}
		}
	}
}
