package command

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// timerSlack is by how much the kernel may be late with a timer of an agent, in nanoseconds. The shortest that one counts on
// are tens of milliseconds. Go has a thread of its own that sleeps for 20 us at a time while anything goes on, to see whether
// another one hangs in the kernel: with the kernel's slack of 50 us that is 5,000 wake-ups a second in each process, a tenth of
// what a leader takes under load and a fifth of a follower's.
const timerSlack = 1_000_000

// slacken has the kernel take its time with the timers of this process. A thread has the slack of the one that it was
// started by, and Go's own began before us: so the program starts once more, with the same process id. It returns if there
// is nothing to do, or no way.
func slacken() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if slackOfThread() >= timerSlack {
		return
	}
	program, err := os.Executable()
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0) != nil || slackOfThread() < timerSlack {
		return
	}
	_ = syscall.Exec(program, os.Args, os.Environ()) // #nosec G204 -- this program, as it was called; if it fails we go on as we are
}

func slackOfThread() int {
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0
	}
	return slack
}
