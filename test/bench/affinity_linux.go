package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// separate puts these processes on the first half of the processors and this one on the rest, and returns what undoes
// the latter. Threads that are made later inherit it.
func separate(pids []int) (release func(), err error) {
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, err
	}
	n := runtime.NumCPU()
	if n < 2 {
		return nil, fmt.Errorf("overload needs a processor for the servers and one for the load, and this machine has %d", n)
	}
	var first, rest unix.CPUSet
	for cpu, placed := 0, 0; placed < n; cpu++ {
		if !before.IsSet(cpu) {
			continue
		}
		if placed < n/2 {
			first.Set(cpu)
		} else {
			rest.Set(cpu)
		}
		placed++
	}
	for _, pid := range pids {
		if err := pin(pid, &first); err != nil {
			return nil, err
		}
	}
	release = func() { _ = pin(os.Getpid(), &before) } // it was ours before
	if err := pin(os.Getpid(), &rest); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// pin sets the processors of all threads of a process.
func pin(pid int, set *unix.CPUSet) error {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, set); err != nil && err != unix.ESRCH { //nolint:errorlint // a plain errno
			return fmt.Errorf("place thread %d of process %d: %w", tid, pid, err)
		}
	}
	return nil
}
