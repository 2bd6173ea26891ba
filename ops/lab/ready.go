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
	argv = append(argv, "init", "--trust-domain", trustDomain, "--data-dir", a.DataDir, "--name", a.Name, "--zone", a.zone)
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

// waitFor asks until done says yes or a wait of startTimeout ends. what says what is waited for.
func (a *Agent) waitFor(ctx context.Context, what string, done func(context.Context, *client.Client) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c, err := client.New(a.Addr())
	if err != nil {
		return err
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ok, err := done(ctx, c)
		if ok {
			return nil
		}
		p := a.process()
		select {
		case <-tick.C:
		case <-p.done:
			return a.failed("the agent ended with " + p.cmd.ProcessState.String())
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return a.failed(fmt.Sprintf("%s, still not so after %s (%v)", what, startTimeout, err))
		}
	}
}

// waitAnswer waits until the agent answers on its admin socket.
func (a *Agent) waitAnswer(ctx context.Context) error {
	return a.waitFor(ctx, "it should answer", func(ctx context.Context, c *client.Client) (bool, error) {
		_, err := status(ctx, c)
		return err == nil, err
	})
}

// waitReady waits until the agent is ready and knows a leader.
func (a *Agent) waitReady(ctx context.Context) error {
	return a.waitFor(ctx, "it should be ready and know the leader", func(ctx context.Context, c *client.Client) (bool, error) {
		s, err := status(ctx, c)
		return err == nil && s.Ready && s.Core.Leader != nil, err
	})
}

func status(ctx context.Context, c *client.Client) (client.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return c.Status(ctx)
}

// waitWhole waits until every agent sees all others alive and the core has its voters.
func (l *Lab) waitWhole(ctx context.Context) error {
	l.opts.Progress("waiting until all see each other and the core is complete")
	want := 1
	if len(l.Agents) >= voters {
		want = voters
	}
	for _, a := range l.Agents {
		err := a.waitFor(ctx, fmt.Sprintf("it should see %d agents alive and %d voters", len(l.Agents), want),
			func(ctx context.Context, c *client.Client) (bool, error) {
				ctx, cancel := context.WithTimeout(ctx, askTimeout)
				defer cancel()
				members, err := c.Members(ctx)
				if err != nil {
					return false, err
				}
				core, err := c.Core(ctx)
				return alive(members) == len(l.Agents) && len(core.Voters) >= want && core.Leader != nil, err
			})
		if err != nil {
			return err
		}
	}
	return nil
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
