package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/ops/lab"
)

// labRefresh is how often the table of `parley lab` is drawn.
const labRefresh = time.Second

func (a *app) labCommand() *cobra.Command {
	var opts lab.Options
	var command string
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "A throw-away secured cluster of real agents on this machine",
		Long: "Lab runs agents a1, a2, ... as processes on loopback addresses, with everything real except the network.\n" +
			"Programs on this machine may do everything there without an identity (http.anonymous_role is operator).\n" +
			"It shows the agents until it is stopped, then ends them and removes their data.\n\n" +
			"With --exec it runs one command by `sh -c` once the cluster is up, with PARLEY_ADDR (an agent\n" +
			"outside the core, if there is one) and PARLEY_LAB_DIR set and parley in the PATH, and exits with that\n" +
			"command's code. $PARLEY_LAB_DIR/lab.json lists the agents.",
		Example: "  parley lab\n  parley lab --agents 3 --exec 'parley kv put greeting hello && parley kv get greeting'",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.Agents < 1 || opts.Agents > lab.MaxAgents {
				return usageError(fmt.Sprintf("choose 1 to %d", lab.MaxAgents), "a lab cannot have %d agents", opts.Agents)
			}
			opts.Progress = func(line string) { _, _ = fmt.Fprintln(a.err, line) }
			return a.runLab(cmd.Context(), opts, command)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&opts.Agents, "agents", lab.DefaultAgents, "how many agents")
	flags.StringVar(&command, "exec", "", "run this by 'sh -c' once the cluster is up, then stop")
	flags.BoolVar(&opts.Keep, "keep", false, "leave the data and the logs in place")
	flags.StringVar(&opts.Dir, "dir", "", "where to keep them, a new or empty directory (default a temporary one)")
	return cmd
}

func (a *app) runLab(ctx context.Context, opts lab.Options, command string) (err error) {
	ctx, stop := untilSignal(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	began := time.Now()
	l, err := lab.Start(ctx, opts)
	if got := (interrupted{}); errors.As(err, &got) {
		return &failure{code: got.code(), err: fmt.Errorf("the lab was stopped while it started: %w", err)}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stopLab(l, opts.Keep)) }()
	_, _ = fmt.Fprintf(a.err, "%d agents are up after %s; loopback callers have the role operator\n",
		len(l.Agents), time.Since(began).Round(100*time.Millisecond))
	if command == "" {
		a.watchLab(ctx, l)
		return nil
	}
	code, err := l.Exec(ctx, command, lab.Streams{In: a.in, Out: a.out, Err: a.err, Terminal: isInputTerminal(a.in)})
	if err == nil && code != 0 {
		err = exitWith(code)
	}
	return err
}

func (a *app) stopLab(l *lab.Lab, keep bool) error {
	_, _ = fmt.Fprintln(a.err, "stopping the agents")
	err := l.Stop()
	if keep {
		_, _ = fmt.Fprintln(a.err, "data and logs are in "+l.Dir)
	}
	return err
}

func isInputTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && isTerminal(f) && f.Name() != os.DevNull
}

// watchLab shows the agents until ctx ends: on a terminal a table that stays in place, elsewhere a table
// whenever something has changed.
func (a *app) watchLab(ctx context.Context, l *lab.Lab) {
	_, _ = io.WriteString(a.out, "\n"+labCommands(pasteOf(l, l.Observe(ctx)))+"\n")
	inPlace := isTerminal(a.out)
	tick := time.NewTicker(labRefresh)
	defer tick.Stop()
	var before []lab.Row
	drawn := 0
	for {
		rows := l.Observe(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case inPlace:
			if drawn > 0 {
				_, _ = fmt.Fprintf(a.out, "\x1b[%dA\x1b[J", drawn)
			}
			drawn = labTable(a.out, rows, time.Now())
		case !slices.EqualFunc(before, rows, sameRow):
			labTable(a.out, rows, time.Now())
		}
		before = rows
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sameRow leaves renewed certificates out: they are no news.
func sameRow(x, y lab.Row) bool {
	x.Expires, y.Expires = time.Time{}, time.Time{}
	return x == y
}

// labTable writes the table and returns its number of lines.
func labTable(out io.Writer, rows []lab.Row, now time.Time) int {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row(w, "AGENT", "STATE", "CORE", "LEADER", "SVID EXPIRES", "ADDRESS")
	for _, r := range rows {
		expires := ""
		if !r.Expires.IsZero() {
			expires = "in " + r.Expires.Sub(now).Round(time.Second).String()
		}
		row(w, r.Name, r.State, r.Core, r.Leader, expires, r.Mesh)
	}
	_ = w.Flush() // a reader that has gone away ends the lab by SIGPIPE
	return len(rows) + 1
}

// labPaste is what the commands to paste are about.
type labPaste struct {
	addr, http, dir, bin string // of the agent to ask, and of the lab
	leader               string // to kill; empty when it is the agent to ask, or unknown
	pid                  int
}

func pasteOf(l *lab.Lab, rows []lab.Row) labPaste {
	front := l.Front(rows)
	p := labPaste{addr: front.Addr(), http: front.HTTP, dir: l.Dir, bin: l.BinDir()}
	for i, row := range rows {
		if row.Core == "leader" && row.Name != front.Name {
			p.leader, p.pid = row.Name, l.Agents[i].Pid()
		}
	}
	return p
}

// labCommands is what one may paste into another terminal, in this order.
func labCommands(p labPaste) string {
	var b strings.Builder
	fmt.Fprintf(&b, "In another terminal (Ctrl-C here stops and removes everything):\n")
	fmt.Fprintf(&b, "  export PARLEY_ADDR=%s PARLEY_LAB_DIR=%s PATH=%s:$PATH\n", shellQuote(p.addr), shellQuote(p.dir), shellQuote(p.bin))
	for _, line := range []string{"members", "core", "kv put greeting hello", "kv get greeting"} {
		fmt.Fprintf(&b, "  parley %s\n", line)
	}
	fmt.Fprintf(&b, "  curl http://%s/parley/v1/kv/greeting\n", p.http)
	if p.leader != "" {
		fmt.Fprintf(&b, "  kill -9 %d   # %s, which leads; the others carry on\n", p.pid, p.leader)
	}
	return b.String()
}
