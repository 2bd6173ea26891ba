package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// process is one started process and the goroutine that waits for it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it was reaped
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends to the process itself; one that has ended is no error. os.Process knows when it was
// reaped, so a reused pid is never hit.
func (p *process) signal(sig syscall.Signal) error {
	err := p.cmd.Process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// kill ends the process and what it started.
func (p *process) kill() {
	if !p.ended() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
	_ = p.signal(syscall.SIGKILL)
	<-p.done
}

// spawner starts processes one after another until requests is closed. It stays on one operating system
// thread, because a child's parent-death signal is sent when the thread that started it ends, and a
// caller's thread may end long before this process does.
func spawner(requests <-chan func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for start := range requests {
		start()
	}
}

// start runs cmd in its own process group and reaps it.
func (l *Lab) start(ctx context.Context, cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	started := make(chan error, 1)
	select {
	case l.spawn <- func() { started <- cmd.Start() }:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := <-started; err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		close(p.done)
	}()
	return p, nil
}

// launch starts the agent's process. Its output goes to its log file, behind what is there.
func (l *Lab) launch(ctx context.Context, a *Agent) error {
	log, err := os.OpenFile(a.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	cmd := exec.Command(a.Argv[0], a.Argv[1:]...)
	cmd.Dir, cmd.Env = a.dir, childEnv()
	cmd.Stdout, cmd.Stderr = log, log
	p, err := l.start(ctx, cmd)
	if err != nil {
		return fmt.Errorf("start %s: %w", a.Name, err)
	}
	a.setProcess(p)
	return nil
}

// childEnv is this process's environment without what would point an agent somewhere else.
func childEnv() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "PARLEY_") && !strings.HasPrefix(e, "NOTIFY_SOCKET=") {
			env = append(env, e)
		}
	}
	return env
}

// Kill sends a signal to an agent. After SIGKILL it waits until the process is gone.
func (l *Lab) Kill(name string, sig syscall.Signal) error {
	a, err := l.Agent(name)
	if err != nil {
		return err
	}
	p := a.process()
	if p == nil {
		return nil
	}
	if sig == syscall.SIGKILL {
		p.kill()
		return nil
	}
	return p.signal(sig)
}

// Restart starts an agent again with the command line it had, and returns when it answers on its admin
// socket; it need not be ready then. One that still runs is stopped first, gracefully.
func (l *Lab) Restart(ctx context.Context, name string) error {
	a, err := l.Agent(name)
	if err != nil {
		return err
	}
	if p := a.process(); p != nil {
		stopProcess(p, stopGrace)
	}
	if err := l.launch(ctx, a); err != nil {
		return err
	}
	if err := l.save(); err != nil {
		return err
	}
	return a.waitAnswer(ctx)
}

// stopAll stops every agent at the same time.
func (l *Lab) stopAll(grace time.Duration) {
	ended := make(chan struct{}, len(l.Agents))
	for _, a := range l.Agents {
		go func() {
			if p := a.process(); p != nil {
				stopProcess(p, grace)
			}
			ended <- struct{}{}
		}()
	}
	for range l.Agents {
		<-ended
	}
}

// stopProcess asks, waits, and then insists. A process that a test has stopped is woken up first.
func stopProcess(p *process, grace time.Duration) {
	_ = p.signal(syscall.SIGTERM)
	_ = p.signal(syscall.SIGCONT)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	}
	p.kill()
}
