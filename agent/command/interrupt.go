package command

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal os.Signal }

func (e interrupted) Error() string { return fmt.Sprintf("interrupted by a signal (%s)", e.signal) }

// code is the exit code by which a shell tells of a command that a signal ended.
func (e interrupted) code() int {
	const bySignal = 128
	if s, ok := e.signal.(syscall.Signal); ok {
		return bySignal + int(s)
	}
	return exitFailed
}

// untilSignal is signal.NotifyContext, whose context says by its cause which signal it was.
func untilSignal(ctx context.Context, signals ...os.Signal) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	got := make(chan os.Signal, 1)
	signal.Notify(got, signals...)
	go func() {
		select {
		case s := <-got:
			cancel(interrupted{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(got)
		cancel(context.Canceled)
	}
}
