package command

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/ops/lab"
)

func TestLabTable(t *testing.T) {
	now := time.Unix(1700000000, 0)
	var out bytes.Buffer
	lines := labTable(&out, []lab.Row{
		{Name: "a1", State: "ready", Core: "leader", Leader: "a1", Expires: now.Add(59*time.Minute + 3*time.Second), Mesh: "127.0.0.1:8310"},
		{Name: "a2", State: "signal: killed", Mesh: "127.0.0.2:8310"},
	}, now)
	want := `AGENT  STATE           CORE    LEADER  SVID EXPIRES  ADDRESS
a1     ready           leader  a1      in 59m3s      127.0.0.1:8310
a2     signal: killed  -       -       -             127.0.0.2:8310
`
	if out.String() != want || lines != 3 {
		t.Errorf("got %d lines\n%swant 3\n%s", lines, out.String(), want)
	}
}

// The agent to kill is not the one that the other commands go to, and without another one nothing is to be killed.
func TestLabCommands(t *testing.T) {
	p := labPaste{addr: "unix:///l/a5/data/admin.sock", http: "127.0.0.5:8500", dir: "/l", bin: "/l/bin", leader: "a1", pid: 4711}
	want := `In another terminal (Ctrl-C here stops and removes everything):
  export PARLEY_ADDR=unix:///l/a5/data/admin.sock PARLEY_LAB_DIR=/l PATH=/l/bin:$PATH
  parley members
  parley core
  parley kv put greeting hello
  parley kv get greeting
  curl http://127.0.0.5:8500/parley/v1/kv/greeting
  kill -9 4711   # a1, which leads; the others carry on
`
	if got := labCommands(p); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	p.leader = ""
	if got := labCommands(p); strings.Contains(got, "kill") {
		t.Errorf("a lab without another agent: got\n%s", got)
	}
}
