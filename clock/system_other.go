//go:build !linux

package clock

import "time"

func boottime() time.Duration { return time.Since(processStart) }
