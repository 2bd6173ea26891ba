package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	starts     = 9
	startLimit = time.Second // of the median, which is ten times less on two idle cores
)

// measureStart starts agents one after the other on new directories. An agent is ready when it answers what the
// client's tests wait for: a leader, a root, and the health of its own node.
func (s *suite) measureStart(ctx context.Context) error {
	var took []time.Duration
	for i := range starts {
		d, err := s.startOnce(ctx, filepath.Join(s.dir, fmt.Sprintf("start-%d", i)))
		if err != nil {
			return fmt.Errorf("start %d: %w", i, err)
		}
		took = append(took, d)
	}
	slices.Sort(took)
	median := took[len(took)/2]
	fmt.Printf("start to ready: median %s of %d, from %s to %s\n", median.Round(time.Millisecond), len(took),
		took[0].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	if median > startLimit {
		return fmt.Errorf("the median start takes %s, more than %s", median, startLimit)
	}
	return nil
}

func (s *suite) startOnce(ctx context.Context, dir string) (took time.Duration, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // room for the next
	ports, err := freePorts(2)
	if err != nil {
		return 0, err
	}
	config, err := json.Marshal(map[string]any{
		"node_name": "n1", "data_dir": filepath.Join(dir, "data"), "bind_addr": "127.0.0.1", "server": true, "bootstrap": true,
		"ports": map[string]int{"http": ports[0], "serf_lan": ports[1], "dns": -1},
	})
	if err != nil {
		return 0, err
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return 0, err
	}
	var log bytes.Buffer
	cmd := exec.CommandContext(ctx, s.consul, "agent", "-config-file", file)
	cmd.Stderr = &log
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ready := awaitReady(ctx, fmt.Sprintf("http://127.0.0.1:%d", ports[0]))
	took = time.Since(began)
	return took, errors.Join(ready, stop(cmd, &log))
}

// stop interrupts the agent, which has to end with 0 within ten seconds.
func stop(cmd *exec.Cmd, log fmt.Stringer) error {
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	hung := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("stop: %w\n%s", err, log)
	}
	return nil
}

// signs are what an agent that is ready says.
var signs = []struct{ path, says string }{
	{"/v1/status/leader", ":"}, {"/v1/agent/connect/ca/roots", "BEGIN CERTIFICATE"}, {"/v1/catalog/nodes", `"Node":"n1"`},
	{"/v1/health/node/n1", `"passing"`},
}

func awaitReady(ctx context.Context, base string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for _, sign := range signs {
		for !answers(ctx, base+sign.path, sign.says) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s does not say %s: %w", sign.path, sign.says, ctx.Err())
			case <-tick.C:
			}
		}
	}
	return nil
}

func answers(ctx context.Context, url, says string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(answer.Body)
	return err == nil && answer.StatusCode == http.StatusOK && strings.Contains(string(body), says)
}

// freePorts finds ports that nobody has at the moment.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() //nolint:errcheck // the agent takes it a moment later
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
