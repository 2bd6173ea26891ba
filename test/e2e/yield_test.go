package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// slowDisk makes every sync of an agent's log take so much longer, until the test ends. The processor is not slowed down.
func slowDisk(t *testing.T, a *lab.Agent, by time.Duration) {
	t.Helper()
	tracer := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync",
		"-e", fmt.Sprintf("inject=fdatasync:delay_enter=%d", by.Microseconds()), "-p", strconv.Itoa(a.Pid()))
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = tracer.Process.Signal(syscall.SIGTERM) // it lets go of the agent
		_ = tracer.Wait()
	})
}

// TestSlowDiskGivesTheLeadAway: a leader whose syncs take more than half of an election timeout hands over to a voter that
// is fast, writes are fast again, it does not get the lead back, and the timeline says why. On a quiet machine that takes
// three seconds. With core.yield off, the control, it stays, and writes stay slow.
func TestSlowDiskGivesTheLeadAway(t *testing.T) {
	t.Parallel() // it mostly waits
	mayTrace(t)
	const delay = 300 * time.Millisecond
	for _, yields := range []bool{true, false} {
		t.Run("yield "+strconv.FormatBool(yields), func(t *testing.T) {
			t.Parallel()
			l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute,
				Settings: map[string]string{"core.yield": strconv.FormatBool(yields)}})
			clients := clientsOf(t, l)
			whole(t, clients)
			slow := agentInRole(t, clients, "leader")
			slowDisk(t, named(t, l, slow), delay)
			began := time.Now()
			within := map[bool]time.Duration{true: 30 * time.Second, false: 10 * time.Second}[yields]
			if moved := movedWithin(t, clients, slow, within); moved != yields {
				t.Fatalf("within %v the lead left %s: %v", within, slow, moved)
			}
			took := medianPut(t, clients)
			if !yields {
				if took < delay {
					t.Errorf("control: on the slow disk a put takes %v", took)
				}
				return
			}
			t.Logf("%s led no more after %s; a put takes %v", slow, time.Since(began).Round(time.Millisecond), took)
			if took >= delay {
				t.Errorf("a put takes %v", took)
			}
			yieldIsTold(t, clients, slow)
			if movedWithin(t, clients, agentInRole(t, clients, "leader"), 5*time.Second) {
				t.Error("the lead moved once more")
			}
		})
	}
}

// movedWithin reports whether somebody else leads before the time is over.
func movedWithin(t *testing.T, clients map[string]*client.Client, from string, within time.Duration) bool {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for name, c := range clients {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			leader, err := leaderOf(ctx, c)
			cancel()
			if name != from && err == nil && leader != from {
				return true
			}
		}
	}
	return false
}

func medianPut(t *testing.T, clients map[string]*client.Client) time.Duration {
	t.Helper()
	var took []time.Duration
	for range 3 {
		for _, c := range clients {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			began := time.Now()
			_, err := c.Put(ctx, "pace", []byte("x"), client.PutOptions{})
			cancel()
			if err != nil {
				t.Errorf("put: %v", err)
			}
			took = append(took, time.Since(began))
		}
	}
	slices.Sort(took)
	return took[len(took)/2].Round(time.Millisecond)
}

func yieldIsTold(t *testing.T, clients map[string]*client.Client, slow string) {
	t.Helper()
	eventually(t, 10*time.Second, "the timeline tells who handed over and why", func(ctx context.Context) error {
		for _, c := range clients {
			events, err := c.Events(ctx, client.EventOptions{Kind: "lead-yielded"})
			if err != nil {
				return err
			}
			if len(events) != 1 || events[0].Node != slow || !strings.Contains(events[0].Message, "of its syncs within") {
				return fmt.Errorf("%+v", events)
			}
		}
		return nil
	})
}

// TestStopHandsOver: an agent that is told to stop while it leads hands over first: the others have a leader before its
// process ends. The control is a kill, after which they still believe in the dead one.
func TestStopHandsOver(t *testing.T) {
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		whole(t, clients)
		leader := agentInRole(t, clients, "leader")
		if err := l.Kill(leader, sig); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, leader+" has ended", func(context.Context) error {
			if named(t, l, leader).Running() {
				return fmt.Errorf("it runs after %v", sig)
			}
			return nil
		})
		for name, c := range clients {
			if name == leader {
				continue
			}
			next, err := leaderOf(t.Context(), c)
			if sig == syscall.SIGTERM && (err != nil || next == leader) {
				t.Errorf("%s was stopped, and %s says that %q leads, %v", leader, name, next, err)
			}
			if sig == syscall.SIGKILL && err == nil && next != leader {
				t.Errorf("control: %s was killed, and %s knows at once that %s leads", leader, name, next)
			}
		}
		restart(t, l, leader)
	}
}
