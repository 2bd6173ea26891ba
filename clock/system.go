package clock

import "time"

// System reads the wall clock. Pass it as Options.Physical; parts other than this package take a
// func() time.Time instead of calling time.Now.
func System() time.Time { return time.Now() }

// Boottime returns the time since the machine booted, counting suspends, never stepping. Use it for
// elapsed time: it is CLOCK_BOOTTIME on Linux, and the time since this process began elsewhere.
func Boottime() time.Duration { return boottime() }
