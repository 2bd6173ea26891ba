package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/ops/lab"
)

// asConsul is the program under the name that existing clients' tests start.
func asConsul(t *testing.T) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), "consul")
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// TestConsulAdapter: called as consul the program serves what its configuration names, says that callers need no
// identity, ends with 0 on SIGINT, and finds its data again. It touches no directory that it did not make.
func TestConsulAdapter(t *testing.T) {
	t.Parallel() // it mostly waits
	consul, dir := asConsul(t), shortDir(t)
	data := filepath.Join(dir, "data")
	config := filepath.Join(dir, "config.json")
	text := fmt.Sprintf(`{"node_name":"n1","data_dir":%q,"datacenter":"east","server":true,"bootstrap":true,"bind_addr":"127.0.0.1",
		"ports":{"http":%d,"serf_lan":%d,"dns":-1},"retry_join":["10.0.0.1"]}`, data, freePort(t), freePort(t))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "http.sock")
	unix := filepath.Join(dir, "unix.json")
	if err := os.WriteFile(unix, fmt.Appendf(nil, `{"addresses":{"http":"unix://%s"}}`, socket), 0o600); err != nil {
		t.Fatal(err)
	}

	first := startConsul(t, consul, socket, "agent", "-config-file", config, "-config-file", unix)
	first.wants(t, "PUT", "/v1/kv/web/1", "true")
	first.wants(t, "GET", "/v1/catalog/datacenters", `["east"]`)
	first.wants(t, "GET", "/v1/health/node/n1", `"CheckID":"serfHealth"`)
	first.stop(t)
	for _, said := range []string{"called as consul", "need no identity", "role=operator", "retry_join", "stays alone"} {
		if !strings.Contains(first.log.String(), said) {
			t.Errorf("it did not say %q:\n%s", said, first.log.String())
		}
	}

	again := startConsul(t, consul, socket, "agent", "-config-file", config, "-config-file", unix)
	again.wants(t, "GET", "/v1/kv/web/1?raw", "PUT")
	again.stop(t)

	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := contents(t, dir)
	out, err := exec.Command(consul, "agent", "-config-file", config, "-data-dir", dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not made by this consul") {
		t.Errorf("a directory of somebody's: %v, %s", err, out)
	}
	if after := contents(t, dir); len(after) != len(before) {
		t.Errorf("a refused directory changed: %v, was %v", after, before)
	}
}

// TestConsulStopsWhileItStarts: the client's test servers give up on a slow start with the same SIGINT, and want 0.
func TestConsulStopsWhileItStarts(t *testing.T) {
	dir := shortDir(t)
	data := filepath.Join(dir, "data")
	a := &consulAgent{cmd: exec.Command(asConsul(t), "agent", "-node", "n1", "-data-dir", data,
		"-http-port", fmt.Sprint(freePort(t)), "-serf-lan-port", fmt.Sprint(freePort(t)))}
	a.cmd.Stderr = &a.log
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-tick.C {
		if _, err := os.Stat(filepath.Join(data, "made-by-consul-adapter")); err == nil {
			break
		}
	}
	a.stop(t)
}

type consulAgent struct {
	cmd    *exec.Cmd
	log    bytes.Buffer
	client *http.Client
}

// startConsul returns when the agent knows its leader.
func startConsul(t *testing.T, consul, socket string, args ...string) *consulAgent {
	t.Helper()
	a := &consulAgent{cmd: exec.Command(consul, args...)}
	a.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	a.cmd.Stderr = &a.log
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.cmd.Process.Kill() }) // it has ended, unless the test failed
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-tick.C {
		if body, err := a.ask("GET", "/v1/status/leader"); err == nil && len(body) > 2 {
			return a
		}
	}
	t.Fatal("no leader after 10 s")
	return nil
}

func (a *consulAgent) ask(method, path string) (string, error) {
	r, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(method))
	if err != nil {
		return "", err
	}
	answer, err := a.client.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(answer.Body)
	return strings.TrimSpace(string(body)), err
}

func (a *consulAgent) wants(t *testing.T, method, path, want string) {
	t.Helper()
	if body, err := a.ask(method, path); err != nil || !strings.Contains(body, want) {
		t.Errorf("%s %s: %s, %v, want %s", method, path, body, err, want)
	}
}

// stop interrupts it, with the patience of the client's test servers.
func (a *consulAgent) stop(t *testing.T) {
	t.Helper()
	began := time.Now()
	if err := a.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(10*time.Second, func() { _ = a.cmd.Process.Kill() })
	defer hung.Stop()
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("ended with %v after %s\n%s", err, time.Since(began), a.log.String())
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // the agent takes it a moment later
	return l.Addr().(*net.TCPAddr).Port
}

// TestBlockedHealthReadSeesADeath: whoever waits on another agent for the health of a host learns that it died, and
// then that it is back, without asking again in between.
func TestBlockedHealthReadSeesADeath(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 3})
	base := "http://" + l.Agents[0].HTTP + "/v1/health/node/a3"
	status, index := healthOf(t, base, "")
	if status != "passing" {
		t.Fatalf("a3 is %s before anything happened", status)
	}
	kill(t, l, "a3")
	index = awaitHealth(t, base, index, "critical")
	restart(t, l, "a3")
	awaitHealth(t, base, index, "passing")
}

// awaitHealth reads, each time blocked from the last index. What else changes about the node may wake it a few times.
func awaitHealth(t *testing.T, url, index, want string) string {
	t.Helper()
	status := ""
	for range 4 {
		if status, index = healthOf(t, url, index); status == want {
			return index
		}
	}
	t.Fatalf("%s: %s, want %s", url, status, want)
	return ""
}

// healthOf waits for a change since index, if there is one.
func healthOf(t *testing.T, url, index string) (status, now string) {
	t.Helper()
	if index != "" {
		url += "?wait=30s&index=" + index
	}
	answer, err := http.Get(url) //nolint:gosec // a lab's own address
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	var checks []struct{ CheckID, Status string }
	if err := json.NewDecoder(answer.Body).Decode(&checks); err != nil || len(checks) != 1 || checks[0].CheckID != "serfHealth" {
		t.Fatalf("%s: %d %+v, %v", url, answer.StatusCode, checks, err)
	}
	return checks[0].Status, answer.Header.Get("X-Consul-Index")
}
