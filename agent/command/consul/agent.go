package consul

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/command"
	"github.com/parley-mesh/parley/agent/config"
)

// marker is the file that says that a data directory was made here and holds nothing of value.
const marker = "made-by-consul-adapter"

const markerText = "Parley made this directory when it was called consul. It holds a throw-away cluster of one agent.\n"

// runAgent translates, founds the cluster if the directory is new, and serves.
func runAgent(ctx context.Context, args []string) error {
	// Already here, so that a program that gives up on a slow start sees an orderly end too.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	given, err := parseFlags(args)
	if err != nil {
		return err
	}
	s, err := translate(given)
	if err != nil {
		return err
	}
	if s.dev {
		if s.dataDir, err = os.MkdirTemp("", "parley-dev-"); err != nil {
			return err
		}
		defer os.RemoveAll(s.dataDir) //nolint:errcheck // a temporary directory
		s.dataDir = filepath.Join(s.dataDir, "data")
	}
	cfg, err := s.config()
	if err != nil {
		return err
	}
	fresh, err := claim(cfg.DataDir)
	if err != nil {
		return err
	}
	if fresh {
		if err := command.Found(ctx, cfg, s.trustDomain(), s.nodeID); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return command.Serve(ctx, cfg, func(log *zap.Logger) {
		log.Warn("called as consul: a throw-away cluster of this agent alone, on loopback", zap.String("path", cfg.DataDir))
		for _, i := range s.ignored {
			log.Warn("a setting has no effect here", zap.String("key", i.key), zap.String("reason", i.why))
		}
	})
}

// claim makes the directory ours, or finds that it is. It reports whether the cluster is still to be founded. A
// directory of somebody else's is refused, whatever is in it.
func claim(dir string) (fresh bool, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if len(entries) == 0 {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return false, err
		}
		return true, os.WriteFile(filepath.Join(dir, marker), []byte(markerText), 0o600)
	}
	switch _, err := os.Lstat(filepath.Join(dir, marker)); {
	case errors.Is(err, fs.ErrNotExist):
		return false, command.UsageError("give it an empty -data-dir; an agent of a real cluster is started with parley agent",
			"%s has files that were not made by this consul", dir)
	case err != nil:
		return false, err
	}
	_, err = os.Lstat(filepath.Join(dir, "cluster.toml")) // written last by the founding
	if errors.Is(err, fs.ErrNotExist) {
		return true, sweep(dir, entries)
	}
	return false, err
}

// sweep removes what a founding left that was cut off: an identity is made once, and not half.
func sweep(dir string, entries []fs.DirEntry) error {
	for _, e := range entries {
		if e.Name() == marker {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// config checks the result as parley checks its own file. Messages name the keys that were translated.
func (s *settings) config() (config.Config, error) {
	cfg, err := config.Load("", s.overrides()...)
	if err != nil {
		return cfg, err
	}
	if cfg.Name == "" {
		if cfg.Name, err = config.HostName(); err != nil {
			return cfg, fmt.Errorf("%w (node_name)", err)
		}
	}
	return cfg, nil
}
