package workload

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A client that nobody here wrote, of another language, with OpenSSL to judge certificates, takes everything that the Workload
// API gives. test/node/run installs what it needs and sets the variable.
func TestNodeClient(t *testing.T) {
	dir := os.Getenv("PARLEY_NODE_CLIENT")
	if dir == "" {
		t.Skip("run by test/node/run")
	}
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/spiffe/go-spiffe/v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := newFakeSource(t, testTD)
	source.entitle(web())
	_, path := serve(t, source)
	proto := filepath.Join(strings.TrimSpace(string(module)), "proto", "spiffe", "workload", "workload.proto")
	client := exec.Command("node", filepath.Join(dir, "client.js"), proto) //nolint:gosec // ours
	client.Env = append(os.Environ(), "SPIFFE_ENDPOINT_SOCKET=unix://"+path)
	client.Stderr = os.Stderr
	output, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(40*time.Second, func() { _ = client.Process.Kill() })
	defer late.Stop()
	facts := 0
	for lines := bufio.NewScanner(output); lines.Scan(); facts++ {
		t.Log(lines.Text())
		if lines.Text() == "rotate" {
			source.rotate()
		}
	}
	if err := client.Wait(); err != nil || facts != 8 {
		t.Errorf("the client stated %d facts, want 8: %v", facts, err)
	}
}
