package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/test/bench/load"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	pollEvery    = 20 * time.Millisecond
	readyTimeout = 60 * time.Second
	httpsPort    = "8501"
	labDomain    = "lab.parley.test"
)

// parleyKind is a core of three with these settings beside the defaults.
func parleyKind(name string, settings map[string]string) kind {
	return kind{name, func(ctx context.Context, w *work) (cluster, error) {
		dir, err := w.newDir()
		if err != nil {
			return nil, err
		}
		addrs := newAddrs()
		at := func(i int, port string) string { return net.JoinHostPort(addrs[i].String(), port) }
		all := map[string]string{"gossip.profile": "lan"} // a lab has its own default
		for key, value := range settings {
			all[key] = value
		}
		l, err := lab.Start(ctx, lab.Options{
			Binary: w.parley, Agents: servers, Dir: dir, Core: true, ReplaceAfter: 10 * time.Minute, Settings: all,
			Own:   func(i int) map[string]string { return map[string]string{"https.bind": at(i, httpsPort)} },
			Place: func(i int) lab.Place { return lab.Place{Mesh: at(i, "8310"), HTTP: at(i, "8500"), DNS: at(i, "8600")} },
		})
		if err != nil {
			return nil, err
		}
		return &ours{lab: l}, nil
	}}
}

// ours is a cluster of Parley.
type ours struct {
	lab      *lab.Lab
	launches sync.WaitGroup // of agents that were started again, until they answer
}

func (o *ours) Paths() []path {
	paths := []path{
		{"http", func(ctx context.Context, n int) ([]load.Client, func(), error) { return o.connectHTTP(ctx, n, false) }},
		{"https", func(ctx context.Context, n int) ([]load.Client, func(), error) { return o.connectHTTP(ctx, n, true) }},
	}
	return append(paths, o.rpcPaths()...)
}

func (o *ours) connectHTTP(ctx context.Context, n int, secured bool) (clients []load.Client, closeAll func(), err error) {
	var dialled []*load.HTTP
	closeAll = func() {
		for _, d := range dialled {
			_ = d.Close() // nothing is pending
		}
	}
	leader, err := o.Leader(ctx)
	if err != nil {
		return nil, nil, err
	}
	a := o.lab.Agents[leader]
	addr := a.HTTP
	var settings *tls.Config
	if secured {
		if settings, err = identity(a, "http/1.1"); err != nil {
			return nil, nil, err
		}
		host, _, _ := net.SplitHostPort(addr) //nolint:errcheck // we made it
		addr = net.JoinHostPort(host, httpsPort)
	}
	for range n {
		d, err := load.DialHTTP(ctx, addr, settings)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		dialled = append(dialled, d)
		clients = append(clients, d)
		if err := d.Hello(ctx); err != nil {
			closeAll()
			return nil, nil, err
		}
	}
	return clients, closeAll, nil
}

// identity is the certificate of an agent of the lab, as the command line shows it on the agent's host.
func identity(a *lab.Agent, alpn string) (*tls.Config, error) {
	domain, err := spiffeid.TrustDomainFromString(labDomain)
	if err != nil {
		return nil, err
	}
	source, err := security.NewSource(security.SourceOptions{Dir: a.DataDir, TrustDomain: domain, Node: a.Name, Now: clock.System})
	if err != nil {
		return nil, err
	}
	return source.ClientTLS("", alpn), nil
}

func (o *ours) Pids() []int {
	pids := make([]int, len(o.lab.Agents))
	for i, a := range o.lab.Agents {
		pids[i] = a.Pid()
	}
	return pids
}

func (o *ours) Leader(ctx context.Context) (int, error) {
	for i, row := range o.lab.Observe(ctx) {
		if row.Core == "leader" {
			return i, nil
		}
	}
	return 0, errors.New("no agent leads")
}

func (o *ours) Kill(i int) error { return o.lab.Kill(o.lab.Agents[i].Name, syscall.SIGKILL) }

func (o *ours) Launch(ctx context.Context, i int) error {
	return o.lab.Restart(ctx, o.lab.Agents[i].Name)
}

// Serving dials anew for each try, so that no client's own patience is measured.
func (o *ours) Serving(ctx context.Context, i int) error {
	return until(ctx, fmt.Sprintf("%s answers no read", o.lab.Agents[i].Name), func() error {
		c, err := load.DialHTTP(ctx, o.lab.Agents[i].HTTP, nil)
		if err != nil {
			return err
		}
		defer c.Close() //nolint:errcheck // the answer is what counts
		_, err = c.Get(ctx, "none")
		if err != nil && strings.Contains(err.Error(), `"not_found"`) {
			return nil // an answer: such a key was never written
		}
		return err
	})
}

func (o *ours) Whole(ctx context.Context) error {
	o.launches.Wait()
	for i, a := range o.lab.Agents {
		if err := o.Serving(ctx, i); err != nil {
			return err
		}
		if err := until(ctx, a.Name+" does not see three healthy voters", func() error { return sound(ctx, a) }); err != nil {
			return err
		}
	}
	return nil
}

// sound complains unless an agent sees all voters healthy.
func sound(ctx context.Context, a *lab.Agent) error {
	c, err := client.New(a.Addr())
	if err != nil {
		return err
	}
	defer c.Close()
	core, err := c.Core(ctx)
	if err != nil {
		return err
	}
	if len(core.Voters) != servers || slices.ContainsFunc(core.Voters, func(m client.CoreMember) bool { return !m.Healthy }) {
		return fmt.Errorf("%d voters: %+v", len(core.Voters), core.Voters)
	}
	return nil
}

// until tries until there is no complaint.
func until(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("after %s: %s", readyTimeout, what))
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

func (o *ours) Call(i int) (caller, error) {
	c, err := client.New("http://" + o.lab.Agents[i].HTTP)
	return &ourCaller{c}, err
}

func (o *ours) Stop() error {
	err := o.lab.Stop()
	o.launches.Wait()
	return err
}

// ourCaller is Parley's own Go client of one agent.
type ourCaller struct{ client *client.Client }

func (c *ourCaller) Close() { c.client.Close() }

func (c *ourCaller) Put(ctx context.Context, key string, value []byte) error {
	_, err := c.client.Put(ctx, key, value, client.PutOptions{})
	return err
}

func (c *ourCaller) PutAll(ctx context.Context, keys []string, value []byte) error {
	txn := client.Txn{Then: make([]client.Op, len(keys))}
	for i, key := range keys {
		txn.Then[i] = client.Op{Op: "put", Key: key, Value: value}
	}
	answer, err := c.client.Txn(ctx, txn)
	if err == nil && !answer.Succeeded {
		err = errors.New("the transaction did not succeed")
	}
	return err
}

func (c *ourCaller) Watch(ctx context.Context, key string, ready func(), each func(value []byte)) error {
	return c.client.Watch(ctx, key, false, func(e client.Event) error {
		if e.Type == "ready" {
			ready()
		}
		if e.Pair != nil {
			each(e.Pair.Value)
		}
		return nil
	})
}
