package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/parley-mesh/parley/test/bench/report"
)

// profile records where the leader and another server spend their processor time until stop is called. A run with profiles
// is slower, so its figures are for finding out why, not for docs. It samples by the clock: virtual machines often have no
// counters.
func (b *bench) profile(ctx context.Context, c cluster, cell report.Cell) (stop func(), err error) {
	if b.profiles == "" {
		return func() {}, nil
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	name := strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, cell.String())
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	for _, of := range []struct {
		pid  int
		role string
	}{{c.Pids()[leader], "leader"}, {c.Pids()[(leader+1)%servers], "follower"}} {
		s, err := record(ctx, of.pid, filepath.Join(b.profiles, name+"."+of.role+".perf"))
		if err != nil {
			stop()
			return nil, err
		}
		stops = append(stops, s)
	}
	return stop, nil
}

// record samples one process into a file until stop is called.
func record(ctx context.Context, pid int, file string) (stop func(), err error) {
	//nolint:gosec // what the user asked for
	perf := exec.CommandContext(ctx, "perf", "record", "-q", "-e", "cpu-clock", "-F", "999", "-g", "-p", fmt.Sprint(pid), "-o", file)
	perf.Stderr = os.Stderr
	if err := perf.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = perf.Process.Signal(syscall.SIGINT)
		_ = perf.Wait() // it ends by the signal
	}, nil
}
