package command

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
)

const slackChild = "PARLEY_TEST_SLACK"

// The process that runs an agent is the one that was started, and all its threads have the slack. One that does not ask for
// it has the kernel's.
func TestSlackIsThatOfAllThreads(t *testing.T) {
	for _, ask := range []string{"yes", "no"} {
		child := exec.Command(os.Args[0], "-test.run=^TestSlackChild$", "-test.v") //nolint:gosec // ourselves
		child.Env = append(os.Environ(), slackChild+"="+ask)
		out, err := child.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		want := fmt.Sprintf("pid %d slack", child.Process.Pid) + strings.Repeat(fmt.Sprintf(" %d", timerSlack), 4) + "\n"
		if got := strings.Contains(string(out), want); got != (ask == "yes") {
			t.Errorf("asked %s: got %s, and %q is in it: %v", ask, out, want, got)
		}
	}
}

// TestSlackChild is the other process of the test above.
func TestSlackChild(t *testing.T) {
	ask := os.Getenv(slackChild)
	if ask == "" {
		t.Skip("this is run by another test")
	}
	if ask == "yes" {
		slacken()
	}
	slacks := []int{slackOfThread()}
	var mu sync.Mutex
	var threads, all sync.WaitGroup
	threads.Add(3)
	for range 3 {
		all.Go(func() {
			runtime.LockOSThread() // and never unlock: each has a thread of its own
			threads.Done()
			threads.Wait()
			mu.Lock()
			defer mu.Unlock()
			slacks = append(slacks, slackOfThread())
		})
	}
	all.Wait()
	fmt.Printf("pid %d slack %s\n", os.Getpid(), strings.Trim(fmt.Sprint(slacks), "[]"))
}
