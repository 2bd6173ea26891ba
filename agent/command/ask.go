package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

const (
	askAgain      = 250 * time.Millisecond // between tries of --wait
	progressAfter = 2 * time.Second        // until a terminal is told that we are still waiting

	// answerLimit is how long one try may take: longer than an agent takes to give up by itself (10 s),
	// so that only a process that does not run any more is cut off.
	answerLimit = 12 * time.Second
)

// fetcher asks the agent once.
type fetcher func(ctx context.Context, c *client.Client) (answer, error)

// query is the RunE of a command that reads: --wait repeats it until it has an answer as expected.
func (a *app) query(fetch fetcher) func(*cobra.Command, []string) error {
	limited := func(ctx context.Context, c *client.Client) (answer, error) {
		ctx, cancel := context.WithTimeout(ctx, max(answerLimit, a.wait))
		defer cancel()
		return fetch(ctx, c)
	}
	return a.talk(limited, func(err error) bool {
		return mayRepeat(err) || isNotFound(err) || explain(err).code == exitExpectFalse
	})
}

// change is the RunE of a command that writes: --wait repeats it only while nothing was done. The end of
// --wait does not cut off a write that was sent: the agent knows what became of it, and says so soon.
func (a *app) change(fetch fetcher) func(*cobra.Command, []string) error {
	limited := func(ctx context.Context, c *client.Client) (answer, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerLimit)
		defer cancel()
		return fetch(ctx, c)
	}
	return a.talk(limited, mayRepeat)
}

func (a *app) talk(fetch fetcher, again func(error) bool) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		c, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		return a.ask(cmd, again, func(ctx context.Context) (answer, error) { return fetch(ctx, c) })
	}
}

// say prints what is known without an agent.
func (a *app) say(cmd *cobra.Command, ans answer) error {
	never := func(error) bool { return false }
	return a.ask(cmd, never, func(context.Context) (answer, error) { return ans, nil })
}

// ask prints what fetch answers and holds it against --expect. With --wait it fetches again while again
// allows it. The last answer is printed even when it is not as expected, so that one sees why.
func (a *app) ask(cmd *cobra.Command, again func(error) bool, fetch func(context.Context) (answer, error)) error {
	expect, err := compileExpect(a.expect)
	if err != nil {
		return err
	}
	ctx, cancel := cmd.Context(), context.CancelFunc(func() {})
	if a.wait > 0 {
		ctx, cancel = context.WithTimeout(ctx, a.wait)
	}
	defer cancel()
	var last answer
	verdict := a.until(ctx, again, func() error {
		next, err := fetch(ctx)
		if err != nil {
			return err
		}
		last = next
		ok, err := a.holds(cmd.Context(), expect, next.value)
		if err == nil && !ok {
			err = expectFalse(a.expect)
		}
		return err
	})
	if f := explain(verdict); f != nil && f.code != exitExpectFalse {
		return verdict
	}
	if err := a.show(last); err != nil {
		return err
	}
	return verdict
}

// until runs try once, or with --wait until it succeeds, fails for good, or ctx ends. What it returns is
// what try said last; a try that the end of ctx cut off says nothing new.
func (a *app) until(ctx context.Context, again func(error) bool, try func() error) error {
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	progress := time.NewTimer(progressAfter)
	defer progress.Stop()
	var last error
	for {
		err := try()
		if last == nil || !cutOff(ctx, err) {
			last = err
		}
		if err == nil || a.wait <= 0 || !again(err) || ctx.Err() != nil {
			return last
		}
		select {
		case <-tick.C:
		case <-progress.C:
			if isTerminal(a.err) {
				_, _ = fmt.Fprintf(a.err, "waiting for up to %s: %s\n", a.wait, last)
			}
		case <-ctx.Done():
			return last
		}
	}
}

// cutOff reports a failure that may come of the end of ctx alone. The other end of a connection may see that end a moment earlier.
func cutOff(ctx context.Context, err error) bool {
	at, ends := ctx.Deadline()
	over := ctx.Err() != nil || ends && time.Until(at) < askAgain
	var f *failure
	return over && (mayRepeat(err) || errors.As(err, &f) && f.code == exitNoAgent)
}

// mayRepeat reports a failure after which the same request may be sent again without harm. One whose
// outcome is unknown is not among them.
func mayRepeat(err error) bool {
	var answered *client.Error
	return errors.As(err, &answered) && answered.Retryable
}

func isNotFound(err error) bool {
	var answered *client.Error
	return errors.As(err, &answered) && answered.Code == "not_found"
}
