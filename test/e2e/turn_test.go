package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Tests that take long have their turn where time is short: with PARLEY_E2E_BUDGET, a duration, as many of them run as fit
// into it, beginning with another one for each commit, and the others are named. All others always run. Without it all do.
//
// These run alone, and seconds are what they take on two processors.
var takesLong = map[string]int{
	"TestFailover":                  39,
	"TestLearnerCatchesUpUnderLoad": 29,
	"TestPoison":                    92,
	"TestPoisonControl":             47,
	"TestPoisonOnOne":               60,
	"TestStoppedLeaderControl":      60,
}

// turn says which of the long tests stay out, in their order.
func turn(seconds map[string]int, budget time.Duration, commit uint64) (out []string) {
	names := make([]string, 0, len(seconds))
	for name := range seconds {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return nil
	}
	first := int(commit % uint64(len(names))) //nolint:gosec // less than a length
	for i := range names {
		name := names[(first+i)%len(names)]
		if budget -= time.Duration(seconds[name]) * time.Second; budget < 0 && i > 0 {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// skipping has the tests whose turn it is not left out, if there is a budget. It returns what is to be said about it.
func skipping(budget string, set func(name, value string) error) (string, error) {
	if budget == "" {
		return "", nil
	}
	d, err := time.ParseDuration(budget)
	if err != nil || d < 0 {
		return "", fmt.Errorf("PARLEY_E2E_BUDGET=%s: give a duration, such as 6m", budget)
	}
	commit := uint64(0)
	if hash, err := exec.Command("git", "rev-parse", "HEAD").Output(); err == nil && len(hash) >= 12 {
		commit, _ = strconv.ParseUint(string(hash[:12]), 16, 64) // zero is a turn as well
	}
	out := turn(takesLong, d, commit)
	if len(out) == 0 {
		return "", nil
	}
	return "left out at this commit: " + strings.Join(out, ", "), set("test.skip", "^("+strings.Join(out, "|")+")$")
}

func TestTurns(t *testing.T) {
	seconds := map[string]int{"A": 10, "B": 20, "C": 30, "D": 40}
	for _, c := range []struct {
		budget time.Duration
		commit uint64
		out    string
	}{
		{time.Hour, 0, ""},
		{time.Minute, 0, "D"},
		{time.Minute, 1, "A,D"},
		{time.Minute, 6, "A,B,D"},
		{time.Minute, 3, "B,C"},
		{time.Second, 3, "A,B,C"},
	} {
		if got := strings.Join(turn(seconds, c.budget, c.commit), ","); got != c.out {
			t.Errorf("%v at commit %d: %q is left out, want %q", c.budget, c.commit, got, c.out)
		}
	}
	if _, err := skipping("soon", nil); err == nil {
		t.Error("a budget that is no duration is taken")
	}
}

// TestTurnsAreOfTests: a test that is renamed is renamed above.
func TestTurnsAreOfTests(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]bool)
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			there[m[1]] = true
		}
	}
	for name := range takesLong {
		if !there[name] {
			t.Errorf("there is no %s any more", name)
		}
	}
}
