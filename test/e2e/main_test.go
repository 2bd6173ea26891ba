package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/mutant"
	"github.com/parley-mesh/parley/ops/lab"
)

// program is the program under test.
var program string

var flagMutant = flag.String("mutant", "", "a mistake of package mutant that the program under test is given: what it breaks has to fail")

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "parley-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	program = filepath.Join(dir, "parley")
	args := []string{"-o", program}
	if flag.Parse(); *flagMutant != "" {
		if !slices.Contains(mutant.All, mutant.Name(*flagMutant)) {
			fmt.Fprintf(os.Stderr, "-mutant %s: package mutant has none of this name\n", *flagMutant)
			return 1
		}
		args = append(args, "-tags", "mutants")
		if err := os.Setenv("PLANTED_MUTANT", *flagMutant); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	said, err := skipping(os.Getenv("PARLEY_E2E_BUDGET"), flag.Set)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if said != "" {
		fmt.Println(said)
	}
	build := buildProgram(args...)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the program:", err)
		return 1
	}
	// Tests that mostly wait run beside each other, more of them than there are processors.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// need skips a test that this machine cannot run. In CI every machine can.
func need(t testing.TB, ok bool, what string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("CI") == "true":
		t.Fatalf("needs %s, and CI has to provide it", what)
	default:
		t.Skipf("needs %s", what)
	}
}

// startLab runs a lab that ends with the test. A failed test shows the end of every agent's log.
func startLab(t testing.TB, o lab.Options) *lab.Lab {
	t.Helper()
	return startProgram(t, program, o)
}

// startProgram is startLab with another build of the program.
func startProgram(t testing.TB, binary string, o lab.Options) *lab.Lab {
	t.Helper()
	o.Binary = binary
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := lab.Start(ctx, o)
	if err != nil {
		t.Fatalf("start lab: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, a := range l.Agents {
				t.Logf("log of %s:\n%s", a.Name, a.LogTail(25))
			}
		}
		if err := l.Stop(); err != nil {
			t.Errorf("stop lab: %v", err)
		}
	})
	return l
}

// clientOf talks to one agent over its admin socket.
func clientOf(t testing.TB, a *lab.Agent) *client.Client {
	t.Helper()
	c, err := client.New(a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// eventually polls until check returns nil.
func eventually(t testing.TB, within time.Duration, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		oneCtx, done := context.WithTimeout(ctx, 5*time.Second)
		err := check(oneCtx)
		done()
		if err == nil {
			return
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, within, last)
		case <-tick.C:
		}
	}
}

// leaderOf asks an agent who leads.
func leaderOf(ctx context.Context, c *client.Client) (string, error) {
	core, err := c.Core(ctx)
	if err != nil {
		return "", err
	}
	if core.Leader == nil {
		return "", fmt.Errorf("no leader in term %d", core.Term)
	}
	return *core.Leader, nil
}
