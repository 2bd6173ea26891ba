// Package tpmtest runs TPMs in software (Debian's swtpm) for tests.
package tpmtest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// startLooks and startPause bound the wait for the socket of a new TPM: 20 s.
const (
	startLooks = 2000
	startPause = 10 * time.Millisecond
)

// A TPM in software. Its socket answers until it is stopped, or the test ends.
type TPM struct {
	Path string // the Unix socket

	t   testing.TB
	dir string
	cmd *exec.Cmd
}

// New starts a TPM with a seed of its own. Without swtpm the test is skipped; in CI it fails.
func New(t testing.TB) *TPM {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs swtpm, and CI has to provide it")
		}
		t.Skip("needs swtpm: apt-get install swtpm")
	}
	dir, err := os.MkdirTemp("", "tpm") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	tpm := &TPM{Path: filepath.Join(dir, "s"), t: t, dir: dir}
	t.Cleanup(func() {
		tpm.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	tpm.Start()
	return tpm
}

// Start runs a stopped TPM again, with what it had kept.
func (x *TPM) Start() {
	x.t.Helper()
	x.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+x.dir, "--server", "type=unixio,path="+x.Path,
		"--flags", "not-need-init,startup-clear")
	if err := x.cmd.Start(); err != nil {
		x.t.Fatal(err)
	}
	for looks := 1; ; looks++ {
		conn, err := net.Dial("unix", x.Path)
		if err == nil {
			if err := conn.Close(); err != nil {
				x.t.Fatal(err)
			}
			return
		}
		if looks == startLooks {
			x.t.Fatalf("swtpm does not answer: %v", err)
		}
		time.Sleep(startPause)
	}
}

// Stop ends the process. Its socket is gone, as a device is without its driver.
func (x *TPM) Stop() {
	x.t.Helper()
	if x.cmd == nil {
		return
	}
	_ = x.cmd.Process.Kill() // what it keeps is written when it changes
	_ = x.cmd.Wait()         // says that it was killed
	x.cmd = nil
	if err := os.RemoveAll(x.Path); err != nil {
		x.t.Fatal(err)
	}
}

// Clear makes it forget its owner's keys, as a firmware menu does.
func (x *TPM) Clear() {
	x.t.Helper()
	conn, err := net.Dial("unix", x.Path)
	if err != nil {
		x.t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the answer was read
	if _, err := (tpm2.Clear{AuthHandle: tpm2.TPMRHLockout}).Execute(transport.FromReadWriter(conn)); err != nil {
		x.t.Fatalf("clear the TPM: %v", err)
	}
}
