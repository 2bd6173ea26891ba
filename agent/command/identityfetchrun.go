package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/parley-mesh/parley/agent"
	"github.com/parley-mesh/parley/security/svidfiles"
)

const (
	explainHint = "`parley identity explain PID` tells what is found of a process and what is missing; an operator adds an entry with `parley identity entry add`"

	minFetchPause = time.Second // before a token is replaced, or asked for again
	maxFetchPause = 30 * time.Second
)

// fetched is one answer of the Workload API.
type fetched struct {
	value any
	table func(io.Writer)
	raw   []byte
	files []svidfiles.File // for --write
	wrote *fetchedFiles    // within value
	ends  time.Time        // of a token
}

// run asks once, or with --watch for as long as it runs.
func (f *identityFetch) run(
	cmd *cobra.Command, once func(context.Context, *workloadapi.Client) (fetched, error),
	watch func(context.Context, *workloadapi.Client, func(fetched, error) error) error,
) error {
	if err := f.check(); err != nil {
		return err
	}
	socket := f.socketAddress(cmd)
	c, err := workloadapi.New(cmd.Context(), workloadapi.WithAddr(socket))
	if err != nil {
		return usageError("like --socket /run/parley/workload.sock", "%s is no address of a workload socket: %w", socket, err)
	}
	defer c.Close() //nolint:errcheck // nothing is under way any more
	var dir *svidfiles.Dir
	if f.write != "" {
		if dir, err = f.openDir(); err != nil {
			return err
		}
		defer dir.Close() //nolint:errcheck // only the lock
	}
	if f.watch {
		return f.keep(cmd, c, dir, watch)
	}
	return f.ask(cmd, mayFetchAgain, func(ctx context.Context) (answer, error) {
		ctx, cancel := context.WithTimeout(ctx, answerLimit)
		defer cancel()
		got, err := once(ctx, c)
		if err == nil {
			err = got.save(dir)
		}
		return answer{value: got.value, table: got.table, raw: got.raw}, err
	})
}

// openDir takes the directory of the files: of a token it is the one around its file.
func (f *identityFetch) openDir() (*svidfiles.Dir, error) {
	path := f.write
	if len(f.audience) > 0 {
		path = filepath.Dir(path)
	}
	dir, err := svidfiles.Open(path)
	switch {
	case errors.Is(err, svidfiles.ErrHeld):
		return nil, &failure{code: exitFailed, err: err, hint: "use what it writes, stop it, or write to another directory"}
	case err != nil:
		return nil, &failure{code: exitFailed, err: fmt.Errorf("--write: %w", err)}
	}
	return dir, nil
}

func (g fetched) save(dir *svidfiles.Dir) (err error) {
	if dir == nil {
		return nil
	}
	if g.wrote.Written, err = dir.Write(g.files...); err != nil {
		return &failure{code: exitFailed, err: err}
	}
	return nil
}

// socketAddress goes by what was said most directly.
func (f *identityFetch) socketAddress(cmd *cobra.Command) string {
	socket := f.socket
	if socket == "" && cmd.Flags().Changed("data-dir") {
		socket = agent.WorkloadSocket(f.dataDir)
	}
	if socket == "" {
		socket = f.getenv(workloadapi.SocketEnv)
	}
	if socket == "" {
		socket = f.besideAdmin()
	}
	if socket == "" {
		socket = agent.WorkloadSocket("")
	}
	if !strings.Contains(socket, ":") {
		socket = "unix://" + absolute(socket)
	}
	return socket
}

// besideAdmin is the workload socket of the agent that --addr or PARLEY_ADDR names by its admin socket, if it is there.
func (f *identityFetch) besideAdmin() string {
	addr := f.addr
	if addr == "" {
		addr = f.getenv(addrVariable)
	}
	admin, named := strings.CutPrefix(addr, "unix://")
	if !named {
		return ""
	}
	socket := agent.WorkloadSocket(filepath.Dir(admin))
	if _, err := os.Stat(socket); err != nil {
		return ""
	}
	return socket
}

// fetchFailed gives the statuses of the Workload API their exit codes.
func fetchFailed(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	switch s := status.Convert(err); s.Code() {
	case codes.PermissionDenied:
		return &failure{code: exitDenied, err: errors.New(s.Message()), hint: explainHint}
	case codes.Unavailable, codes.DeadlineExceeded:
		f := &failure{code: exitNoAgent, err: fmt.Errorf("the workload socket gives nothing now: %s", s.Message()),
			hint: "see that the agent runs and that this is its socket (--socket, $" + workloadapi.SocketEnv + "); --wait 1m keeps asking"}
		if strings.Contains(s.Message(), syscall.EACCES.Error()) {
			f.code, f.hint = exitDenied, "the directory of the socket has to let this user in: see identity.workload_socket of the agent"
		}
		return f
	case codes.InvalidArgument:
		return &failure{code: exitFailed, err: errors.New(s.Message())}
	}
	return err
}

// mayFetchAgain is what --wait waits for: an agent, an entry, or that --expect is true.
func mayFetchAgain(err error) bool {
	var f *failure
	return errors.As(err, &f) && (f.code == exitNoAgent || f.code == exitDenied || f.code == exitExpectFalse)
}

// keep writes what is new until the command is stopped, --wait is over, or --expect is true of what was written. A failure to
// ask is told and tried again, and the files stay; a failure to write ends it.
func (f *identityFetch) keep(
	cmd *cobra.Command, c *workloadapi.Client, dir *svidfiles.Dir,
	watch func(context.Context, *workloadapi.Client, func(fetched, error) error) error,
) error {
	expect, err := compileExpect(f.expect)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	if f.wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.wait)
		defer cancel()
	}
	var told string
	err = watch(ctx, c, func(got fetched, err error) error {
		if err != nil {
			if text := fetchFailed(err).Error(); text != told && ctx.Err() == nil {
				told = text
				_, _ = fmt.Fprintf(f.err, "parley: %s; trying again\n", text)
			}
			return nil
		}
		told = ""
		if err := got.save(dir); err != nil {
			return err
		}
		if err := f.showUpdate(got); err != nil {
			return err
		}
		ok, err := f.holds(cmd.Context(), expect, got.value)
		if err == nil && ok && expect != nil {
			err = errSeen
		}
		return err
	})
	switch {
	case errors.Is(err, errSeen):
		return nil
	case ctx.Err() != nil && cmd.Context().Err() == nil && expect != nil: // --wait is over
		return expectFalse(f.expect)
	case ctx.Err() != nil && cmd.Context().Err() == nil:
		return nil
	}
	return err
}

// showUpdate prints one update: with -o json a line.
func (f *identityFetch) showUpdate(got fetched) error {
	switch f.output {
	case "json":
		return json.NewEncoder(f.out).Encode(got.value)
	case "yaml":
		if _, err := fmt.Fprintln(f.out, "---"); err != nil {
			return err
		}
	}
	return f.show(answer{value: got.value, table: got.table, raw: got.raw})
}

// updates hands what the callbacks of a watch bring to one goroutine.
type updates struct {
	ctx context.Context //nolint:containedctx // the callbacks have none of their own
	to  chan fetchUpdate
}

type fetchUpdate struct {
	x509  *workloadapi.X509Context
	roots *x509bundle.Set
	keys  *jwtbundle.Set
	err   error
}

func (u updates) send(next fetchUpdate) {
	select {
	case u.to <- next:
	case <-u.ctx.Done():
	}
}

func (u updates) OnX509ContextUpdate(c *workloadapi.X509Context) { u.send(fetchUpdate{x509: c}) }
func (u updates) OnX509ContextWatchError(err error)              { u.send(fetchUpdate{err: err}) }
func (u updates) OnX509BundlesUpdate(b *x509bundle.Set)          { u.send(fetchUpdate{roots: b}) }
func (u updates) OnX509BundlesWatchError(err error)              { u.send(fetchUpdate{err: err}) }
func (u updates) OnJWTBundlesUpdate(b *jwtbundle.Set)            { u.send(fetchUpdate{keys: b}) }
func (u updates) OnJWTBundlesWatchError(err error)               { u.send(fetchUpdate{err: err}) }

// follow runs watches until ctx ends or take returns an error, and returns that. All have ended then.
func follow(ctx context.Context, take func(fetchUpdate) error, watches ...func(context.Context, updates) error) error {
	ctx, cancel := context.WithCancel(ctx)
	u := updates{ctx: ctx, to: make(chan fetchUpdate)}
	ended := make(chan error, len(watches))
	for _, w := range watches {
		go func() { ended <- w(ctx, u) }()
	}
	running := len(watches)
	defer func() {
		cancel()
		for ; running > 0; running-- {
			<-ended //nolint:errcheck // by cancel
		}
	}()
	for {
		select {
		case next := <-u.to:
			if err := take(next); err != nil {
				return err
			}
		case err := <-ended: // a request that will never be answered
			running--
			return fetchFailed(err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *identityFetch) watchX509(ctx context.Context, c *workloadapi.Client, take func(fetched, error) error) error {
	return follow(ctx, func(u fetchUpdate) error {
		if u.err != nil {
			return take(fetched{}, u.err)
		}
		return take(f.takeX509(u.x509))
	}, func(ctx context.Context, u updates) error { return c.WatchX509Context(ctx, u) })
}

func (f *identityFetch) watchBundles(ctx context.Context, c *workloadapi.Client, take func(fetched, error) error) error {
	var roots *x509bundle.Set
	var keys *jwtbundle.Set
	return follow(ctx, func(u fetchUpdate) error {
		if u.err != nil {
			return take(fetched{}, u.err)
		}
		if u.roots != nil {
			roots = u.roots
		}
		if u.keys != nil {
			keys = u.keys
		}
		if roots == nil || keys == nil {
			return nil
		}
		return take(f.takeBundles(roots, keys))
	}, func(ctx context.Context, u updates) error { return c.WatchX509Bundles(ctx, u) },
		func(ctx context.Context, u updates) error { return c.WatchJWTBundles(ctx, u) })
}

// watchJWT asks at half of each token's life; after a failure soon, and then less and less often.
func (f *identityFetch) watchJWT(ctx context.Context, c *workloadapi.Client, take func(fetched, error) error) error {
	retry := minFetchPause
	for {
		once, cancel := context.WithTimeout(ctx, answerLimit)
		got, err := f.jwt(once, c)
		cancel()
		if err := take(got, err); err != nil {
			return err
		}
		pause := max(time.Until(got.ends)/2, minFetchPause)
		if err != nil {
			pause, retry = retry, min(2*retry, maxFetchPause)
		} else {
			retry = minFetchPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
