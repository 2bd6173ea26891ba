package command

import (
	"bytes"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/api/client"
)

// What the margin means is said, also below 0, where a majority may be healthy and not have elected a leader.
func TestCoreTable(t *testing.T) {
	leader := "a1"
	voters := func(healthy int) (v []client.CoreMember) {
		for i, name := range []string{"a1", "a2", "a3"} {
			v = append(v, client.CoreMember{Name: name, Healthy: i < healthy})
		}
		return v
	}
	for _, test := range []struct {
		core client.CoreStatus
		want string
	}{
		{client.CoreStatus{Leader: &leader, Margin: 1, Voters: voters(3)}, "1 of 3 voters may fail"},
		{client.CoreStatus{Leader: &leader, Margin: 0, Voters: voters(2)}, "0 of 3 voters may fail"},
		{client.CoreStatus{Margin: -1, Voters: voters(2)}, "none: 2 of 3 voters are healthy, and none leads"},
		{client.CoreStatus{Margin: -1, Voters: voters(1)}, "no majority of the 3 voters is healthy"},
		{client.CoreStatus{Margin: -1}, "not known"},
	} {
		var out bytes.Buffer
		coreTable(&out, test.core)
		if !strings.Contains(out.String(), "margin\t"+test.want+"\n") {
			t.Errorf("want %q in\n%s", test.want, out.String())
		}
	}
}
