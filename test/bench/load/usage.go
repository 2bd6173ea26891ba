package load

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of CPU time in /proc, USER_HZ, fixed on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// Usage is what processes have used together: CPU time of user and system, memory now and at its highest.
type Usage struct {
	CPU       time.Duration
	RSSBytes  int64
	PeakBytes int64
}

// Since is what was used after before; memory is as it is now.
func (u Usage) Since(before Usage) Usage {
	u.CPU -= before.CPU
	return u
}

// Processes adds up what these have used since each began.
func Processes(pids []int) (Usage, error) {
	var sum Usage
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return Usage{}, fmt.Errorf("a server has ended: %w", err)
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return Usage{}, fmt.Errorf("a server has ended: %w", err)
		}
		u, err := parse(stat, status)
		if err != nil {
			return Usage{}, fmt.Errorf("process %d: %w", pid, err)
		}
		sum.CPU += u.CPU
		sum.RSSBytes += u.RSSBytes
		sum.PeakBytes += u.PeakBytes
	}
	return sum, nil
}

// Waited is how long the threads of these processes that still run have wanted a processor and had none.
func Waited(pids ...int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid)) //nolint:errcheck // the pattern is good
		for _, name := range threads {
			var ran, waited int64
			stat, err := os.ReadFile(name) //nolint:gosec // of a process of ours
			if err != nil {
				continue // it has ended
			}
			if n, err := fmt.Sscan(string(stat), &ran, &waited); n == 2 && err == nil {
				sum += time.Duration(waited)
			}
		}
	}
	return sum
}

// parse reads /proc/PID/stat, where the name may hold anything and ends with the last bracket, and /proc/PID/status.
func parse(stat, status []byte) (Usage, error) {
	const user, system = 11, 12 // fields behind the name
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= system {
		return Usage{}, fmt.Errorf("stat has %d fields: %q", len(fields), stat)
	}
	var u Usage
	for _, i := range []int{user, system} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return Usage{}, err
		}
		u.CPU += time.Duration(n) * tick
	}
	var err error
	if u.RSSBytes, err = kibibytes(status, "VmRSS:"); err != nil {
		return Usage{}, err
	}
	u.PeakBytes, err = kibibytes(status, "VmHWM:")
	return u, err
}

func kibibytes(status []byte, name string) (int64, error) {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("status has no line %s", name)
}

// Self is the CPU time of this process.
func Self() Usage {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err) // it has no other argument
	}
	return Usage{CPU: time.Duration(r.Utime.Nano() + r.Stime.Nano())}
}
