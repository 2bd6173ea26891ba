// Package lab runs throw-away clusters of real agent processes on this machine, for people who want to
// see Parley, for scripts, and for end-to-end tests.
//
// The common case is
//
//	l, err := lab.Start(ctx, lab.Options{Binary: "bin/parley", Agents: 5})
//	...
//	defer l.Stop()
//
// Start founds a cluster with the binary's own init, token and agent commands, names the agents a1..aN
// and returns once every one is ready, all see each other and the core has its voters. Each agent has an
// address of its own in 127.0.0.0/8, so all use the normal ports; several labs can run at once because
// each holds a block of addresses. Loopback callers get the role operator: nothing in a lab is secret.
//
// Kill and Restart break and mend agents; nothing is restarted by itself. Stop ends the processes, only
// those it started, and removes the directory. On Linux the agents also end when this process does.
// A Lab is safe for concurrent use.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Limits and defaults of a lab.
const (
	DefaultAgents = 5
	// MaxAgents keeps the block of addresses within one 127.A.B.x, and the machine alive.
	MaxAgents = 100
	// defaultReplaceAfter makes a dead core member's replacement something that one can watch.
	defaultReplaceAfter = 5 * time.Second
	// startTimeout is how long one agent may take until it answers, and the cluster until it is whole.
	startTimeout = 60 * time.Second
	// stopGrace is how long agents may take to hand over and leave before they are killed.
	stopGrace = 5 * time.Second
	// trustDomain of every lab; .test is reserved, so that no lab identity means anything elsewhere.
	trustDomain = "lab.parley.test"
	// maxSocketPath is what fits into the kernel's address of a Unix socket.
	maxSocketPath = 107
)

// Options describe a lab. The zero value is five agents of this program in a new temporary directory.
type Options struct {
	// Binary is the parley program to run; empty is this program.
	Binary string
	// Agents is how many, 1 to MaxAgents; 0 is DefaultAgents.
	Agents int
	// Dir holds everything, and has to be new or empty; empty is a new temporary directory.
	Dir string
	// Keep leaves the directory in place at Stop.
	Keep bool
	// ReplaceAfter is core.replace_after of every agent; 0 is 5 s.
	ReplaceAfter time.Duration
	// Settings are further keys of every agent's configuration, such as "log.level": "debug".
	Settings map[string]string
	// Own are the keys of agent i (from 0) alone, beside Settings; nil is none.
	Own func(i int) map[string]string
	// Core gives every agent the core grant. Without it the first four have it, as in any new cluster.
	Core bool
	// Place puts agent i (from 0) elsewhere than in a block of loopback addresses, for instance into a
	// network namespace; nil is the block.
	Place func(i int) Place
	// Progress is told what is going on, one line at a time, by one goroutine; nil is nobody.
	Progress func(line string)
}

// Place is where one agent runs: its addresses as addr:port, and what stands before its command line,
// such as "ip netns exec a1".
type Place struct {
	Mesh, HTTP, DNS string
	Wrap            []string
}

// Lab is a running cluster.
type Lab struct {
	// Agents are a1..aN in order. The slice does not change after Start.
	Agents []*Agent
	// Dir is PARLEY_LAB_DIR: lab.json, the join token, the program, and a directory for each agent.
	Dir string

	opts    Options
	release func()      // gives the block of addresses back
	spawn   chan func() // to the goroutine that starts processes; see spawner
	stop    sync.Once
	saving  sync.Mutex // one writer of lab.json
}

// Start runs a new cluster. When it fails, or ctx ends, it stops what it started; the error of an agent
// that did not start carries the last lines of its log.
func Start(ctx context.Context, opts Options) (*Lab, error) {
	l, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	go spawner(l.spawn)
	if err := l.boot(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx) // what it was doing when it was told to stop says nothing
		}
		return nil, errors.Join(err, l.Stop())
	}
	return l, nil
}

// prepare takes directory and addresses, and starts nothing.
func prepare(opts Options) (*Lab, error) {
	if opts.Agents == 0 {
		opts.Agents = DefaultAgents
	}
	if opts.Agents < 1 || opts.Agents > MaxAgents {
		return nil, fmt.Errorf("a lab has 1 to %d agents, not %d", MaxAgents, opts.Agents)
	}
	if opts.ReplaceAfter == 0 {
		opts.ReplaceAfter = defaultReplaceAfter
	}
	if opts.Progress == nil {
		opts.Progress = func(string) {}
	}
	var err error
	if opts.Binary, err = program(opts.Binary); err != nil {
		return nil, err
	}
	dir, err := makeDir(opts.Dir)
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir, opts: opts, release: func() {}, spawn: make(chan func())}
	if err := errors.Join(l.link(), l.place()); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return l, nil
}

// BinDir holds the agents' program under the name parley, for the PATH of who works with this lab.
func (l *Lab) BinDir() string { return filepath.Join(l.Dir, "bin") }

func (l *Lab) link() error {
	if err := os.Mkdir(l.BinDir(), 0o700); err != nil {
		return err
	}
	return os.Symlink(l.opts.Binary, filepath.Join(l.BinDir(), "parley"))
}

// program is the absolute path of the binary: the agents run in directories of their own.
func program(binary string) (string, error) {
	if binary != "" {
		return filepath.Abs(binary)
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return self, nil
}

// makeDir returns an empty directory with an absolute path that is short enough for sockets in it.
func makeDir(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "parley-lab-")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if n := len(filepath.Join(dir, "a100", "data", "admin.sock")); n > maxSocketPath {
		return "", fmt.Errorf("lab directory %s: its sockets' paths would be %d bytes too long; choose a shorter one",
			dir, n-maxSocketPath)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	if len(entries) > 0 {
		return "", fmt.Errorf("lab directory %s is not empty; choose a new one", dir)
	}
	return dir, nil
}

// place gives every agent its addresses.
func (l *Lab) place() error {
	where := l.opts.Place
	if where == nil {
		b, err := takeBlock(l.opts.Agents)
		if err != nil {
			return err
		}
		where, l.release = b.place, b.release
	}
	for i := range l.opts.Agents {
		l.Agents = append(l.Agents, newAgent(l, i, where(i)))
	}
	return nil
}

// boot founds the cluster with a1, lets the others join, and waits for the whole.
func (l *Lab) boot(ctx context.Context) error {
	first := l.Agents[0]
	for _, a := range l.Agents {
		if err := os.Mkdir(a.dir, 0o700); err != nil {
			return err
		}
	}
	l.opts.Progress("a1 founds the cluster " + trustDomain)
	if err := l.runInit(ctx, first); err != nil {
		return err
	}
	if err := l.launch(ctx, first); err != nil {
		return err
	}
	if err := first.waitReady(ctx); err != nil {
		return err
	}
	if len(l.Agents) > 1 {
		if err := l.joinOthers(ctx); err != nil {
			return err
		}
	}
	if err := l.save(); err != nil {
		return err
	}
	return l.waitWhole(ctx)
}

func (l *Lab) joinOthers(ctx context.Context) error {
	if err := l.writeToken(ctx); err != nil {
		return err
	}
	others := l.Agents[1:]
	l.opts.Progress(fmt.Sprintf("%s to %s join with a token", others[0].Name, others[len(others)-1].Name))
	first := others[:min(unasked, len(others))]
	if err := l.launchAll(ctx, first); err != nil {
		return err
	}
	return l.launchAll(ctx, others[len(first):])
}

// unasked is how many joiners of a new cluster may be in the core unasked. They join before the rest, so that they are the
// same ones each time, in as many zones as there are.
const unasked = 3

// launchAll starts agents at the same time, and returns once all are ready.
func (l *Lab) launchAll(ctx context.Context, agents []*Agent) error {
	for _, a := range agents {
		if err := l.launch(ctx, a); err != nil {
			return err
		}
	}
	for _, a := range agents {
		if err := a.waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Agent returns the agent of that name.
func (l *Lab) Agent(name string) (*Agent, error) {
	i := slices.IndexFunc(l.Agents, func(a *Agent) bool { return a.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("this lab has no agent %q; it has a1 to a%d", name, len(l.Agents))
	}
	return l.Agents[i], nil
}

// Stop ends all agents, kills those that do not leave in time, gives the addresses back and removes the
// directory unless it is to be kept. It is safe to call twice.
func (l *Lab) Stop() error {
	var err error
	l.stop.Do(func() {
		l.stopAll(stopGrace)
		close(l.spawn)
		l.release()
		if !l.opts.Keep {
			err = os.RemoveAll(l.Dir)
		}
	})
	return err
}
