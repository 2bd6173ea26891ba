//go:build linux

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const guideTime = 3 * time.Minute

// TestGettingStarted: the commands of docs/getting-started.md, as they stand there and in their order, take
// an empty directory to a cluster that loses a member and gets it back. It runs in a network namespace, so
// that the page's addresses are free.
func TestGettingStarted(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ipErr := exec.LookPath("ip")
	_, curlErr := exec.LookPath("curl")
	need(t, os.Geteuid() == 0 && ipErr == nil && curlErr == nil, "root and iproute2, for a network namespace, and curl")
	page, err := os.ReadFile("../../docs/getting-started.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := guideCommands(string(page))
	if len(commands) < 20 {
		t.Fatalf("%d commands found on the page", len(commands))
	}
	dir, err := os.MkdirTemp("", "guide-") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	output, err := runGuide(t, dir, commands)
	t.Log(output)
	for _, want := range []string{
		`fail +quorum-margin`, `n3 +dead +voter`, "exit code 4\n", "exit code 1\n", `kv\.read is not allowed for anonymous callers`, `(?m)^8081`,
	} {
		if !regexp.MustCompile(want).MatchString(output) {
			t.Errorf("the output does not have %q", want)
		}
	}
	if strings.Count(output, "\nexit code") != 2 {
		t.Error("other commands than those of the page failed")
	}
	if err != nil || t.Failed() {
		t.Errorf("the commands of the page: %v", err)
	}
}

// guideCommands are the lines of the code blocks that a user types after a prompt.
func guideCommands(page string) []string {
	var commands []string
	inBlock := false
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "```") {
			inBlock = !inBlock
		}
		if command, typed := strings.CutPrefix(line, "$ "); inBlock && typed {
			commands = append(commands, command)
		}
	}
	return commands
}

// runGuide types the commands into one shell that stops at the first that fails, and ends what is left.
func runGuide(t *testing.T, dir string, commands []string) (string, error) {
	t.Helper()
	script := "set -e\nip link set lo up\nexport PATH=" + filepath.Dir(program) + ":$PATH\nunset PARLEY_ADDR\n" +
		"trap 'kill -9 $(jobs -p) 2> /dev/null || true' EXIT\n"
	for _, command := range commands {
		script += "echo \"\\$ \"" + guideQuote(command) + "\n" + command + "\n"
	}
	ctx, cancel := context.WithTimeout(context.Background(), guideTime)
	defer cancel()
	shell := exec.CommandContext(ctx, "unshare", "--net", "bash", "-c", script)
	shell.Dir = dir
	var output bytes.Buffer
	shell.Stdout, shell.Stderr = &output, &output
	shell.WaitDelay = 10 * time.Second
	err := shell.Run()
	return output.String(), err
}

func guideQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
