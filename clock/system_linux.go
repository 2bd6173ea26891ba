package clock

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// boottime cannot fail on a kernel that Go runs on (CLOCK_BOOTTIME is from Linux 2.6.39); a sandbox
// that forbids it leaves no correct answer, so it panics rather than return a wrong time.
//
// It never waits, so Go's scheduler is not told of the call: it would wake the thread that watches over system calls, and
// a process that is woken for no more than a look at the clock would pay several times for that.
func boottime() time.Duration {
	var now unix.Timespec
	_, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&now)), 0)
	if errno != 0 {
		panic(fmt.Sprintf("clock: read CLOCK_BOOTTIME: %v", errno))
	}
	return time.Duration(now.Nano())
}
