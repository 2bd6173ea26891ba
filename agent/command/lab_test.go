package command

import (
	"bytes"
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
