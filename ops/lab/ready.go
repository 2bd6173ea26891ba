package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/parley-mesh/parley/api/client"
)

const (
	pollEvery   = 50 * time.Millisecond
	askTimeout  = 2 * time.Second
	tokenTTL    = time.Hour
	voters      = 3  // what a core has when there are enough agents
	logTailRows = 20 // of an agent that failed, in the error
)

// runInit founds the cluster in a's data directory by the init command.
func (l *Lab) runInit(ctx context.Context, a *Agent) error {
	argv := slices.Clone(a.Argv[:slices.Index(a.Argv, l.opts.Binary)+1])
	argv = append(argv, "init", "--trust-domain", trustDomain, "--data-dir", a.DataDir, "--name", a.Name, "--zone", a.zone, "--no-recovery")
	log, err := os.OpenFile(a.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = a.dir, childEnv()
	cmd.Stdout, cmd.Stderr = log, log
	p, err := l.start(ctx, cmd)
	if err != nil {
		return fmt.Errorf("start init: %w", err)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return ctx.Err()
	}
	if !cmd.ProcessState.Success() {
		return a.failed("init ended with " + cmd.ProcessState.String())
	}
	return nil
}

// failed is an error about an agent with the end of its log.
func (a *Agent) failed(what string) error {
	return fmt.Errorf("%s: %s; the end of %s:\n%s", a.Name, what, a.LogFile, a.LogTail(logTailRows))
}

// waitFor asks until done has no complaint or startTimeout has passed; then it returns the last complaint.
func (a *Agent) waitFor(ctx context.Context, done func(context.Context, *client.Client) error) error {
	c, err := client.New(a.Addr())
	if err != nil {
		return err
	}
	defer c.Close()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	p := a.process()
	for {
		complaint := ask(ctx, c, done)
		if complaint == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return a.failed("the agent ended with " + p.cmd.ProcessState.String())
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			return a.failed(fmt.Sprintf("after %s still: %v", startTimeout, complaint))
		}
	}
}

func ask(ctx context.Context, c *client.Client, done func(context.Context, *client.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return done(ctx, c)
}

// waitAnswer waits until the agent answers on its admin socket.
func (a *Agent) waitAnswer(ctx context.Context) error {
	return a.waitFor(ctx, func(ctx context.Context, c *client.Client) error {
		_, err := c.Status(ctx)
		return err
	})
}

// waitReady waits until the agent is ready and knows a leader.
func (a *Agent) waitReady(ctx context.Context) error {
	return a.waitFor(ctx, func(ctx context.Context, c *client.Client) error {
		s, err := c.Status(ctx)
		if err == nil && (!s.Ready || s.Core.Leader == nil) {
			err = errors.New("not ready, or without a leader")
		}
		return err
	})
}

// waitWhole waits until every agent sees all others alive and the core has its voters.
func (l *Lab) waitWhole(ctx context.Context) error {
	l.opts.Progress("waiting until all see each other and the core is complete")
	for _, a := range l.Agents {
		if err := a.waitFor(ctx, l.whole); err != nil {
			return err
		}
	}
	return nil
}

// whole complains about what one agent still misses.
func (l *Lab) whole(ctx context.Context, c *client.Client) error {
	want := 1
	if len(l.Agents) >= voters {
		want = voters
	}
	members, err := c.Members(ctx)
	if err != nil {
		return err
	}
	core, err := c.Core(ctx)
	if err != nil {
		return err
	}
	if alive(members) < len(l.Agents) || healthy(core) < want || core.Leader == nil {
		return fmt.Errorf("it sees %d of %d agents alive, %d voters (%d healthy, wanted %d) and %d learners, term %d",
			alive(members), len(l.Agents), len(core.Voters), healthy(core), want, len(core.Learners), core.Term)
	}
	return nil
}

func healthy(core client.CoreStatus) int {
	n := 0
	for _, m := range core.Voters {
		if m.Healthy {
			n++
		}
	}
	return n
}

func alive(members []client.Member) int {
	n := 0
	for _, m := range members {
		if m.State == "alive" {
			n++
		}
	}
	return n
}

// writeToken has a1 make a join token for all others and puts it where only this user reads it.
func (l *Lab) writeToken(ctx context.Context) error {
	c, err := client.New(l.Agents[0].Addr())
	if err != nil {
		return err
	}
	t, err := c.CreateToken(ctx, client.TokenSpec{
		TTL: tokenTTL, Uses: len(l.Agents) - 1, Role: "operator", Core: l.opts.Core,
	})
	if err != nil {
		return fmt.Errorf("create a join token: %w", err)
	}
	return os.WriteFile(l.tokenFile(), []byte(t.Token+"\n"), 0o600)
}

// record is one agent in lab.json.
type record struct {
	Name    string   `json:"name"`
	Pid     int      `json:"pid"`
	DataDir string   `json:"data_dir"`
	Admin   string   `json:"admin"`
	HTTP    string   `json:"http"`
	DNS     string   `json:"dns"`
	Mesh    string   `json:"mesh"`
	Argv    []string `json:"argv"`
}

// save writes lab.json, whole or not at all.
func (l *Lab) save() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	records := make([]record, len(l.Agents))
	for i, a := range l.Agents {
		records[i] = record{
			Name: a.Name, Pid: a.Pid(), DataDir: a.DataDir, Admin: a.Admin,
			HTTP: a.HTTP, DNS: a.DNS, Mesh: a.Mesh, Argv: a.Argv,
		}
	}
	text, err := json.MarshalIndent(records, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(l.Dir, "lab.json")
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
