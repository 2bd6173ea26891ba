// Package etcd runs three etcd servers on loopback with mutual TLS among themselves and to their clients, to measure
// beside them.
//
// The common case is
//
//	c, err := etcd.Start(ctx, etcd.Options{Binary: "etcd", Dir: dir, Addrs: addrs})
//	...
//	defer c.Stop()
//
// Everything that Options does not name is etcd's default. Stop ends the processes, only those it started; on Linux they
// also end when this process does. A Cluster is used by one goroutine at a time, its Clients by any.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// The ports of each server, on an address of its own.
const (
	clientPort = "2379"
	peerPort   = "2380"
	httpPort   = "2381"
)

const (
	startTimeout = 60 * time.Second
	stopGrace    = 5 * time.Second
	dialTimeout  = 5 * time.Second
	pollEvery    = 20 * time.Millisecond
)

// Options of a cluster.
type Options struct {
	Binary string
	Dir    string   // new or empty; holds certificates, data and logs
	Addrs  []net.IP // one for each server
	// SeparateHTTP gives HTTP a port of its own, so that the client port speaks gRPC alone: with one port for both every
	// request over TLS goes through Go's net/http server, and with two through gRPC's own, which is faster.
	SeparateHTTP bool
}

// Server is one of a cluster's servers.
type Server struct {
	Name   string
	client string // addr:port
	argv   []string
	log    string
	cmd    *exec.Cmd
	ended  chan struct{}
}

// Cluster is three servers.
type Cluster struct {
	Servers []*Server

	certs *certs
	spawn chan func()
	stop  sync.Once
}

// Start founds a cluster and returns once it has a leader and serves.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	made, err := makeCerts(o.Dir, o.Addrs)
	if err != nil {
		return nil, err
	}
	c := &Cluster{certs: made, spawn: make(chan func())}
	for i := range o.Addrs {
		c.Servers = append(c.Servers, c.server(o, i))
	}
	go spawner(c.spawn)
	for _, s := range c.Servers {
		if err := c.launch(s); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
	}
	for _, s := range c.Servers {
		if err := c.Serving(ctx, s); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
	}
	return c, nil
}

func (c *Cluster) server(o Options, i int) *Server {
	url := func(n int, port string) string { return "https://" + net.JoinHostPort(o.Addrs[n].String(), port) }
	var all []string
	for n := range o.Addrs {
		all = append(all, fmt.Sprintf("e%d=%s", n+1, url(n, peerPort)))
	}
	s := &Server{Name: fmt.Sprintf("e%d", i+1), client: net.JoinHostPort(o.Addrs[i].String(), clientPort)}
	s.log = filepath.Join(o.Dir, s.Name+".log")
	s.argv = []string{
		o.Binary, "--name", s.Name, "--data-dir", filepath.Join(o.Dir, s.Name),
		"--listen-peer-urls", url(i, peerPort), "--initial-advertise-peer-urls", url(i, peerPort),
		"--listen-client-urls", url(i, clientPort), "--advertise-client-urls", url(i, clientPort),
		"--initial-cluster", strings.Join(all, ","), "--initial-cluster-state", "new",
		"--trusted-ca-file", c.certs.ca, "--cert-file", c.certs.cert, "--key-file", c.certs.key, "--client-cert-auth",
		"--peer-trusted-ca-file", c.certs.ca, "--peer-cert-file", c.certs.cert, "--peer-key-file", c.certs.key, "--peer-client-cert-auth",
	}
	if o.SeparateHTTP {
		s.argv = append(s.argv, "--listen-client-http-urls", url(i, httpPort))
	}
	return s
}

// spawner starts processes until requests is closed, on one operating system thread: a child's parent-death signal is
// sent when the thread that started it ends.
func spawner(requests <-chan func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for start := range requests {
		start()
	}
}

func (c *Cluster) launch(s *Server) error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()             // the child has its own
	s.cmd = exec.Command(s.argv[0], s.argv[1:]...) //nolint:gosec // what the caller built
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "ETCD_") {
			s.cmd.Env = append(s.cmd.Env, e)
		}
	}
	started := make(chan error)
	c.spawn <- func() { started <- s.cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	s.ended = make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // how it ended is in ProcessState
		close(s.ended)
	}()
	return nil
}

// logTail is the end of a server's log.
func (s *Server) logTail() string {
	const tailBytes = 2 << 10
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-tailBytes):])
}

// Pids are the running processes.
func (c *Cluster) Pids() []int {
	pids := make([]int, len(c.Servers))
	for i, s := range c.Servers {
		pids[i] = s.cmd.Process.Pid
	}
	return pids
}

// Dial makes a client of one server, with a connection of its own.
func (c *Cluster) Dial(s *Server) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{"https://" + s.client}, TLS: c.certs.client.Clone(), DialTimeout: dialTimeout, Logger: zap.NewNop(),
	})
}

// Serving waits until a server answers a linearizable read. Each try has a connection of its own and begins when the
// port accepts one: a client that is refused waits longer from try to try, which would be measured as the server's.
func (c *Cluster) Serving(ctx context.Context, s *Server) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("%s serves nothing after %s", s.Name, startTimeout))
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	var last error
	for {
		if last = c.tryRead(ctx, s); last == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-s.ended:
			return fmt.Errorf("%s ended with %s; the end of its log:\n%s", s.Name, s.cmd.ProcessState, s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w; the end of its log:\n%s", context.Cause(ctx), last, s.logTail())
		}
	}
}

func (c *Cluster) tryRead(ctx context.Context, s *Server) error {
	settings := c.certs.client.Clone()
	settings.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: settings}).DialContext(ctx, "tcp", s.client)
	if err != nil {
		return err
	}
	_ = conn.Close()
	client, err := c.Dial(s)
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // the answer is what counts
	_, err = client.Get(ctx, "none")
	return err
}

// Leader returns the server that leads.
func (c *Cluster) Leader(ctx context.Context) (*Server, error) {
	for _, s := range c.Servers {
		client, err := c.Dial(s)
		if err != nil {
			return nil, err
		}
		status, err := client.Status(ctx, "https://"+s.client)
		_ = client.Close()
		if err != nil {
			return nil, fmt.Errorf("ask %s for its status: %w", s.Name, err)
		}
		if status.Leader == status.Header.MemberId {
			return s, nil
		}
	}
	return nil, errors.New("no server of etcd leads")
}

// Kill ends a server at once, and returns when it is gone.
func (c *Cluster) Kill(s *Server) {
	_ = s.cmd.Process.Kill() // one that has ended is what is wanted
	<-s.ended
}

// Launch starts a server again that was killed, and returns without waiting for it.
func (c *Cluster) Launch(s *Server) error { return c.launch(s) }

// Stop ends all servers. It is safe to call twice.
func (c *Cluster) Stop() error {
	c.stop.Do(func() {
		for _, s := range c.Servers {
			if s.cmd != nil && s.ended != nil {
				_ = s.cmd.Process.Signal(syscall.SIGTERM)
			}
		}
		grace, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		for _, s := range c.Servers {
			if s.ended == nil {
				continue
			}
			select {
			case <-s.ended:
			case <-grace.Done():
			}
			c.Kill(s)
		}
		close(c.spawn)
	})
	return nil
}
