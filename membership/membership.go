// Package membership finds out which agents are alive: SWIM gossip (hashicorp/memberlist) over
// links that are authenticated by the agents' certificates, with a firewall that lets a member
// speak for itself only.
//
// The common case:
//
//	m, err := membership.New(options)
//	go m.Run(ctx)
//	for range m.Changed() {
//		for _, member := range m.Members() { ... }
//	}
//
// # Who may say what
//
// Authenticating the transport does not make SWIM safe: any member could declare any other dead
// for good. Here every packet and stream has a known sender, and passes a firewall (type
// firewall, its rules) before memberlist sees it. What a member is - address, zone, version, the
// incarnations it may use - is in a record that its host key signed (type record); the host keys
// come from the replicated state, through Options.HostKeyOf.
//
// # Links
//
// One UDP socket carries QUIC: packets as datagrams, state exchanges as streams, one connection to
// each peer in use. Where UDP does not get through, both go over TLS on the mesh TCP port, and
// UDP is tried again from time to time.
//
// # Concurrency
//
// All methods are safe for concurrent use. Run owns every goroutine but memberlist's own, which
// end within a minute after it. The package keeps no files.
package membership

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
)

// Membership is one node's part in the gossip, and its view of the others.
type Membership struct {
	opts  Options
	own   *own
	fw    *firewall
	under *underlay
	view  *view
	list  *memberlist.Memberlist // set by Run before anything reads it

	kick   chan struct{}     // cap 1: look at memberlist's state soon
	leaves chan chan<- error // Leave's requests to the view loop
	done   chan struct{}     // closed when Run returns
	strays *strays           // peers refused for want of a binding
	seeds  seedNames
	told   teller
}

// New checks the options and signs our record. It starts nothing.
func New(o Options) (*Membership, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	self, err := newOwn(o)
	if err != nil {
		return nil, err
	}
	m := &Membership{
		opts: o, own: self, view: newView(o.Now),
		kick: make(chan struct{}, 1), leaves: make(chan chan<- error), done: make(chan struct{}),
		strays: &strays{},
	}
	m.fw = newFirewall(o, self)
	m.fw.unresolved = m.strays.add
	if o.Heard != nil {
		m.fw.heard = func(from string, statement []byte) {
			if o.Heard(from, statement) && len(statement) <= MaxPacketStatement {
				m.Tell(bytes.Clone(statement))
			}
		}
	}
	m.under = newUnderlay(o, m.fw)
	return m, nil
}

// Run takes part in the gossip until ctx ends, and then closes every link. It does not announce
// that we leave; see Leave. It may be called once.
func (m *Membership) Run(ctx context.Context) error {
	defer close(m.done)
	if err := m.under.start(ctx); err != nil {
		return fmt.Errorf("membership: open quic on %s: %w", m.opts.Conn.LocalAddr(), err)
	}
	list, err := memberlist.Create(m.config())
	if err != nil {
		_ = m.under.Shutdown()
		return fmt.Errorf("membership: %w", err)
	}
	m.list = list
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { m.viewLoop(ctx); return nil })
	group.Go(func() error { m.rejoinLoop(ctx); return nil })
	group.Go(func() error { m.bindingsLoop(ctx); return nil })
	<-ctx.Done()
	err = list.Shutdown()
	_ = group.Wait()
	return err
}

// Members returns every node that we know, ourselves included, by name. Those that died or left
// stay for 72 hours.
func (m *Membership) Members() []Member { return m.view.members() }

// Changed signals that Members may answer differently: look again. Capacity one, so that a reader
// that is late misses nothing but repeats; there is one such reader, others use NextChange.
func (m *Membership) Changed() <-chan struct{} { return m.view.changed }

// NextChange returns a channel that is closed when Members next answers differently. Any number of
// readers may wait for it; take the channel before the look, so that no change falls in between.
func (m *Membership) NextChange() <-chan struct{} { return m.view.nextChange() }

// Links returns how each peer in use is reached, in no order.
func (m *Membership) Links() []LinkStat { return m.under.stats() }

// Dropped counts messages that the firewall refused.
func (m *Membership) Dropped() uint64 { return m.fw.dropped.Load() }

// Leave announces that this node leaves, signed, so that the others neither suspect it nor wait;
// Run goes on until its context ends. It returns when the announcement is out, or with ctx.
func (m *Membership) Leave(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case m.leaves <- done:
	case <-ctx.Done():
		return fmt.Errorf("leave gossip: %w", ctx.Err())
	case <-m.done:
		return fmt.Errorf("leave gossip: %w", net.ErrClosed)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("leave gossip: %w", ctx.Err())
	case <-m.done:
		return fmt.Errorf("leave gossip: %w", net.ErrClosed)
	}
}

// config is memberlist's. What is not set here is its LAN default.
func (m *Membership) config() *memberlist.Config {
	t := m.opts.Timing
	c := memberlist.DefaultLANConfig()
	c.Name = m.opts.Name
	c.Transport = m.under
	c.BindPort = int(m.opts.Advertise.Port())
	c.AdvertisePort = c.BindPort
	c.ProbeInterval, c.ProbeTimeout = t.ProbeInterval, t.ProbeTimeout
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = t.SuspicionMult, t.SuspicionMaxMult
	c.GossipInterval, c.PushPullInterval = t.GossipInterval, t.PushPullInterval
	c.TCPTimeout = t.StreamTimeout
	c.RetransmitMult = retransmitMult
	c.EnableCompression = false
	c.RequireNodeNames = true
	// The datagram limit is 1,243 bytes after the handshake, and memberlist forgets 5 of CRC.
	c.UDPBufferSize = udpBufferBytes
	// The record is proof that the node at the new address is the same: no need to wait.
	c.DeadNodeReclaimTime = reclaimTime
	d := &delegate{m: m}
	c.Delegate, c.Events, c.Conflict = d, d, d
	if !m.opts.bare {
		c.Alive = d
	}
	c.Logger = newListLogger(m.opts.Log)
	return c
}

const (
	// retransmitMult x ceil(log10(n+1)) is how often a member passes on what is new. With
	// memberlist's 4, one in ten starts of 8 nodes left someone uninformed until the next state
	// exchange.
	retransmitMult = 8
	udpBufferBytes = 1150
	reclaimTime    = time.Millisecond
)

// look asks the view loop for a look soon.
func (m *Membership) look() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// maxStrays bounds the peers that are remembered for want of a binding.
const maxStrays = 64

// strays are peers whose message named a host key that we do not know yet. Safe for concurrent
// use.
type strays struct {
	mu struct {
		sync.Mutex
		names map[string]struct{}
	}
}

func (s *strays) add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.names == nil {
		s.mu.names = make(map[string]struct{})
	}
	if len(s.mu.names) < maxStrays {
		s.mu.names[name] = struct{}{}
	}
}

func (s *strays) take() map[string]struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := s.mu.names
	s.mu.names = nil
	return names
}
