package clock

import "time"

// System reads the wall clock. Pass it as Options.Physical; parts other than this package take a
// func() time.Time instead of calling time.Now.
func System() time.Time { return time.Now() }

// processStart has the monotonic clock's reading too.
var processStart = time.Now()

// Awake returns how long this process has existed, without suspends, never stepping. It is for measuring how long something
// took, and decides nothing that others rely on: a reading costs a tenth of Boottime's, which Linux answers by a system call.
func Awake() time.Duration { return time.Since(processStart) }

// Boottime returns the time since the machine booted, counting suspends, never stepping. Use it for
// elapsed time: it is CLOCK_BOOTTIME on Linux, and the time since this process began elsewhere.
func Boottime() time.Duration { return boottime() }
