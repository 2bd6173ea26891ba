//go:build !linux

package clock

import "time"

var processStart = time.Now()

func boottime() time.Duration { return time.Since(processStart) }
