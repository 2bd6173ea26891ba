package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// slowDisk makes every sync of an agent's log take so much longer, until stop is called or the test ends. The processor is not
// slowed down.
func slowDisk(t *testing.T, a *lab.Agent, by time.Duration) (stop func()) {
	t.Helper()
	tracer := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync",
		"-e", fmt.Sprintf("inject=fdatasync:delay_enter=%d", by.Microseconds()), "-p", strconv.Itoa(a.Pid()))
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = tracer.Process.Signal(syscall.SIGTERM) // it lets go of the agent
		_ = tracer.Wait()
	})
	t.Cleanup(stop)
	return stop
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
			began := time.Now()
			if !yields {
				slow := slowLeader(t, l, clients, delay, func(slow string) bool { return stays(t, clients, slow, 10*time.Second) })
				if told := handOvers(t, clients); len(told) > 0 {
					t.Errorf("control: %+v", told)
				}
				took := medianPut(t, clients)
				if took < delay && stays(t, clients, slow, time.Second) {
					t.Errorf("control: on the slow disk a put takes %v", took)
				}
				return
			}
			slow := slowLeader(t, l, clients, delay, func(slow string) bool { return handsOver(t, clients, slow, 30*time.Second) })
			took := medianPut(t, clients)
			t.Logf("%s handed over after %s; a put takes %v", slow, time.Since(began).Round(time.Millisecond), took)
			if took >= delay {
				t.Errorf("a put takes %v", took)
			}
			yieldIsTold(t, clients, slow)
			if gotBack(t, clients, slow, 5*time.Second) {
				t.Error("it got the lead back")
			}
			yieldIsTold(t, clients, slow) // and nobody handed over since
		})
	}
}

// electionsMost is how often a busy machine may take the lead away from a leader, before the test gives up.
const electionsMost = 8

// slowLeader slows the leader's disk down, and returns its name once seen has seen what is to be seen. On a busy machine an election
// may take the lead away first, which says nothing of slow disks: then it is the next leader's turn.
func slowLeader(t *testing.T, l *lab.Lab, clients map[string]*client.Client, delay time.Duration, seen func(slow string) bool) string {
	t.Helper()
	for range electionsMost {
		slow := agentInRole(t, clients, "leader")
		stop := slowDisk(t, named(t, l, slow), delay)
		if seen(slow) {
			return slow
		}
		t.Logf("an election took the lead from %s", slow)
		stop()
		whole(t, clients)
	}
	t.Fatalf("%d times an election took the lead away: the machine is too busy", electionsMost)
	return ""
}

// othersLead reports whether an agent besides this one says that another leads.
func othersLead(t *testing.T, clients map[string]*client.Client, slow string) bool {
	t.Helper()
	for name, c := range clients {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		leader, err := leaderOf(ctx, c)
		cancel()
		if name != slow && err == nil && leader != slow {
			return true
		}
	}
	return false
}

// stays reports whether an agent leads for all of the time.
func stays(t *testing.T, clients map[string]*client.Client, slow string, span time.Duration) bool {
	t.Helper()
	for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if othersLead(t, clients, slow) {
			return false
		}
	}
	return true
}

// handsOver waits until an agent has handed the lead over, and reports false when it lost the lead otherwise. It fails the test
// when it still leads after so long.
func handsOver(t *testing.T, clients map[string]*client.Client, slow string, within time.Duration) bool {
	t.Helper()
	byHandOver := func() bool {
		return slices.ContainsFunc(handOvers(t, clients), func(e client.TimelineEvent) bool { return e.Node == slow })
	}
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if !othersLead(t, clients, slow) {
			continue
		}
		for told := time.Now().Add(10 * time.Second); time.Now().Before(told); time.Sleep(100 * time.Millisecond) {
			if byHandOver() {
				return true
			}
		}
		return false
	}
	t.Fatalf("within %v the lead did not leave %s", within, slow)
	return false
}

// gotBack reports whether an agent leads at any moment of the time.
func gotBack(t *testing.T, clients map[string]*client.Client, slow string, span time.Duration) bool {
	t.Helper()
	for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		leader, err := leaderOf(ctx, clients[slow])
		cancel()
		if err == nil && leader == slow {
			return true
		}
	}
	return false
}

// handOvers are those that the timeline tells of, by the first agent that answers.
func handOvers(t *testing.T, clients map[string]*client.Client) []client.TimelineEvent {
	t.Helper()
	for _, c := range clients {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		events, err := c.Events(ctx, client.EventOptions{Kind: "lead-yielded"})
		cancel()
		if err == nil {
			return events
		}
	}
	return nil
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
