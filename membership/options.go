package membership

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/transport"
)

// Options configures New. Every field is required unless its comment says otherwise.
type Options struct {
	// Name is this node's name, the one in its certificate.
	Name string
	// Zone and Version are shown to every member, signed with our record. Either may be empty;
	// at most 63 and 32 bytes.
	Zone, Version string
	// ClusterID is part of what a record's signature covers, so that a record of another cluster
	// that shares a host key is worthless here.
	ClusterID string
	// Conn carries QUIC. Run uses it alone while it runs; the caller closes it after Run returned.
	Conn net.PacketConn
	// Advertise is where the others reach us, UDP and TCP.
	Advertise netip.AddrPort
	// ServerTLS and ClientTLS (for a node) are the mutual TLS settings; ALPN, the minimum version
	// and the absence of session tickets are enforced on copies of them.
	ServerTLS *tls.Config
	ClientTLS func(node string) *tls.Config
	// Identify tells whose verified certificate a connection carries.
	Identify func(tls.ConnectionState) (transport.Peer, error)
	// Standing judges a QUIC connection while it is open: one that does not stand any more is closed. TCP ones are
	// their owners' to judge. May be nil.
	Standing func(tls.ConnectionState) transport.Standing
	// DialTCP opens a TLS connection (ALPN parley-gossip/1) to a node's mesh TCP port, or, with an empty
	// node, to whichever agent of the trust domain listens there. Nil turns the fallback off, and seeds
	// without a name are not used.
	DialTCP func(ctx context.Context, node string, addr netip.AddrPort) (net.Conn, error)
	// HostKey signs our record (ECDSA P-256). It is used at start, about once in eight refuted
	// accusations, and when leaving.
	HostKey crypto.Signer
	// HostKeyOf returns the host key (SPKI, DER) that the cluster bound to a node's name. It is
	// called with memberlist's lock held: it must be quick and must not call this package.
	HostKeyOf func(node string) (spki []byte, ok bool)
	// BindingsChanged signals that HostKeyOf may answer differently now. May be nil.
	BindingsChanged <-chan struct{}
	// ResetKey keys stateless resets; persist it, so that peers notice our restart at once.
	ResetKey [32]byte
	// Epoch is larger at each start of this host. One that replaces another may start over.
	Epoch uint64
	// Seeds lists nodes to join, at start and for as long as they are missing. A node may be listed with
	// several addresses. It is called by one goroutine, between rounds, and may take a moment. May be nil.
	Seeds func() []Seed
	// Timing defaults to LAN().
	Timing Timing
	// Now is the clock for ages and rates.
	Now func() time.Time
	// NextBeat is how long to wait for a moment at which this process wakes anyway, about so long from now. Loops that look at
	// intervals go by it, so that an idle host sleeps in between. May be nil.
	NextBeat func(about time.Duration) time.Duration
	// Told returns the statements that go along with state exchanges, at most MaxStatements of MaxStatementBytes each; they are
	// not changed afterwards. Heard takes a statement that a member told, which it must not keep, and reports whether it is to be
	// passed on by packets: it proves by itself who made it. Both are called with links' goroutines and must be quick. May be
	// nil, both.
	Told  func() [][]byte
	Heard func(from string, statement []byte) (passOn bool)
	// Log may be nil.
	Log *zap.Logger

	// bare is for tests: the transport without the firewall, as stock memberlist would have it.
	bare bool
	// crowded is for tests: no packet has room for a statement.
	crowded bool
}

// Seed is a node to join and where it may listen.
type Seed struct {
	Node string // empty: whoever answers there, by its certificate
	Addr netip.AddrPort
}

// Timing holds every interval of failure detection. Shorter intervals find a crash sooner, cost
// packets, and mistake a starved process for a dead one: on a machine that stalls processes for S,
// keep SuspicionMult x ProbeInterval well above S.
type Timing struct {
	ProbeInterval time.Duration // one member is probed each interval
	ProbeTimeout  time.Duration // a direct answer is awaited this long, then helpers are asked
	// SuspicionMult x ProbeInterval x max(1, log10 n) is how long a suspect has to refute when
	// enough others confirm; SuspicionMaxMult times that when nobody does.
	SuspicionMult    int
	SuspicionMaxMult int
	GossipInterval   time.Duration
	PushPullInterval time.Duration // full state exchange with one random member
	StreamTimeout    time.Duration // for a whole stream exchange
	RejoinInterval   time.Duration // seeds and dead members are tried again, +-50 %
	DialTimeout      time.Duration // for one QUIC or TCP handshake
	FallbackDelay    time.Duration // head start of QUIC over TCP in a dial; QUIC repeats a lost packet after 0.2 s
	StallAfter       time.Duration // a QUIC link that acknowledged nothing for so long is given up
	UDPRetry         time.Duration // first pause before UDP is tried again; doubles up to 16 times
}

// LAN is the default: a crash is seen by all in about ten seconds.
func LAN() Timing {
	return Timing{
		ProbeInterval: time.Second, ProbeTimeout: 500 * time.Millisecond,
		SuspicionMult: 4, SuspicionMaxMult: 3,
		GossipInterval: 200 * time.Millisecond, PushPullInterval: 30 * time.Second,
		StreamTimeout: 5 * time.Second, RejoinInterval: 10 * time.Second,
		DialTimeout: 3 * time.Second, FallbackDelay: 400 * time.Millisecond,
		StallAfter: 800 * time.Millisecond, UDPRetry: 10 * time.Second,
	}
}

// Fast is for labs on one machine: a crash is seen by all in about four seconds.
func Fast() Timing {
	return Timing{
		ProbeInterval: 500 * time.Millisecond, ProbeTimeout: 200 * time.Millisecond,
		SuspicionMult: 4, SuspicionMaxMult: 3,
		GossipInterval: 100 * time.Millisecond, PushPullInterval: 10 * time.Second,
		StreamTimeout: 3 * time.Second, RejoinInterval: 4 * time.Second,
		DialTimeout: 2 * time.Second, FallbackDelay: 300 * time.Millisecond,
		StallAfter: 600 * time.Millisecond, UDPRetry: 3 * time.Second,
	}
}

// withDefaults returns the options completed, or every problem with them at once.
func (o Options) withDefaults() (Options, error) {
	var problems []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf("membership: "+format, args...))
		}
	}
	need(validName(o.Name), "name %q is not a node name: use 1 to %d of [a-z0-9._-], starting with [a-z0-9]", o.Name, maxNameBytes)
	need(len(o.Zone) <= maxZoneBytes, "zone %q is longer than %d bytes", o.Zone, maxZoneBytes)
	need(len(o.Version) <= maxVersionBytes, "version %q is longer than %d bytes", o.Version, maxVersionBytes)
	need(o.Conn != nil, "no packet connection given")
	need(o.Advertise.IsValid() && o.Advertise.Port() != 0 && !o.Advertise.Addr().IsUnspecified(),
		"%s cannot be advertised: give an address and port that the other agents can reach", o.Advertise)
	need(o.ServerTLS != nil && o.ClientTLS != nil && o.Identify != nil, "TLS settings are missing")
	need(o.HostKey != nil && o.HostKeyOf != nil, "host keys are missing")
	need(o.Now != nil, "no clock given")
	if len(problems) > 0 {
		return o, errors.Join(problems...)
	}
	o.Advertise = netip.AddrPortFrom(o.Advertise.Addr().Unmap().WithZone(""), o.Advertise.Port())
	if o.Timing == (Timing{}) {
		o.Timing = LAN()
	}
	if o.Seeds == nil {
		o.Seeds = func() []Seed { return nil }
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.NextBeat == nil {
		o.NextBeat = func(about time.Duration) time.Duration { return about }
	}
	return o, nil
}
