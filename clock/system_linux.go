package clock

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// boottime cannot fail on a kernel that Go runs on (CLOCK_BOOTTIME is from Linux 2.6.39); a sandbox
// that forbids it leaves no correct answer, so it panics rather than return a wrong time.
func boottime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(fmt.Sprintf("clock: read CLOCK_BOOTTIME: %v", err))
	}
	return time.Duration(now.Nano())
}
