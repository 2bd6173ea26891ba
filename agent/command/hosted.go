package command

import (
	"context"
	"io"
	"os"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent"
	"github.com/parley-mesh/parley/agent/config"
)

// What follows is for a program that runs an agent under another command line. It is the same agent: the same
// configuration, signals, errors and exit codes.

// Found makes a new cluster of this one agent in cfg.DataDir, as `parley init` does. A zero node id means the usual one.
func Found(ctx context.Context, cfg config.Config, trustDomain string, nodeID [16]byte) error {
	_, err := agent.Init(ctx, agent.InitOptions{
		DataDir: cfg.DataDir, TrustDomain: trustDomain, Name: cfg.Name, Zone: cfg.Zone,
		Address: cfg.Mesh.Advertise, SegmentMiB: cfg.Core.SegmentMiB, NodeID: nodeID,
		NoRecovery: true, IdentitySource: cfg.Identity.Source, Log: zap.NewNop(),
	})
	return err
}

// Serve runs the agent until a signal or an error ends it, as `parley agent` does. first may log what the operator
// should know.
func Serve(ctx context.Context, cfg config.Config, first func(*zap.Logger)) error {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv}
	return a.serve(ctx, cfg, first)
}

// UsageError is an error of the command line or of a configuration, with what to do about it.
func UsageError(hint, format string, args ...any) error { return usageError(hint, format, args...) }

// Report prints err to w as every command does, nothing for nil, and returns the exit code.
func Report(w io.Writer, err error) int { return (&app{err: w}).report(err) }
