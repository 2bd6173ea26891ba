package lab

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// Streams are what a command of Exec reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// Terminal leaves the command in this process's group, where it may use the terminal and gets the
	// terminal's signals itself. Otherwise it gets a group of its own, which is ended as a whole.
	Terminal bool
}

// Exec runs a command by `sh -c` with PARLEY_ADDR (the admin socket of Front) and PARLEY_LAB_DIR set and the lab's own
// program first in the PATH as parley, and returns its exit code; one that was ended by a signal gives 128 and the
// signal's number. When ctx ends it gets SIGTERM, and SIGKILL after a while.
func (l *Lab) Exec(ctx context.Context, command string, s Streams) (int, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Env = append(os.Environ(), "PARLEY_ADDR="+l.Front(l.Observe(ctx)).Addr(), "PARLEY_LAB_DIR="+l.Dir,
		"PATH="+l.BinDir()+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.In, s.Out, s.Err
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: !s.Terminal}
	cmd.Cancel = func() error {
		if s.Terminal {
			return cmd.Process.Signal(syscall.SIGTERM)
		}
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	}
	cmd.WaitDelay = stopGrace
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return 0, err
	}
	if !s.Terminal {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left running in its group
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}
