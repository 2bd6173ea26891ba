package security

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/transport"
)

// An open connection stands for as long as its peer is who the handshake proved, longer than the certificate lasts.
func TestStanding(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(w *world, judge *Source)
		want   func(error) bool // nil: it stands
	}{
		{"nothing changed", func(*world, *Source) {}, nil},
		{"another name was bound anew", func(w *world, _ *Source) { w.bind("a3", []byte("key")) }, nil},
		{"the binding was not known before", func(w *world, _ *Source) {}, nil},
		{"replaced by another host", func(w *world, _ *Source) {
			host, err := CreateHost(w.t.TempDir())
			if err != nil {
				w.t.Fatal(err)
			}
			w.bind("a2", host.HostKey())
		}, func(err error) bool { return errors.Is(err, ErrHostSignature) }},
		{"left", func(_ *world, judge *Source) {
			judge.denied = func(id spiffeid.ID) bool { return id.Path() == "/parley/agent/a2" }
		}, func(err error) bool { return errors.Is(err, ErrDenied) }},
		{"the certificate ended", func(_ *world, judge *Source) {
			judge.now = func() time.Time { return time.Now().Add(61 * time.Minute) }
		}, nil},
		{"replaced after the certificate ended", func(w *world, judge *Source) {
			judge.now = func() time.Time { return time.Now().Add(61 * time.Minute) }
			host, err := CreateHost(w.t.TempDir())
			if err != nil {
				w.t.Fatal(err)
			}
			w.bind("a2", host.HostKey())
		}, func(err error) bool { return errors.Is(err, ErrHostSignature) }},
		{"the root went", func(w *world, judge *Source) {
			other := newWorld(w.t, testTD)
			if err := judge.SetBundle(w.gen.BundleSequence+1, other.gen.Roots); err != nil {
				w.t.Fatal(err)
			}
		}, func(err error) bool { return errors.Is(err, ErrUnknownRoot) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, testTD)
			a1, a2 := w.first(), w.agent("a2")
			s, c := connect(t, a1.ServerTLS(meshProtos...), a2.ClientTLS("a1", transport.ALPNRPC))
			if s.err != nil || c.err != nil {
				t.Fatal(s.err, c.err)
			}
			standing := a1.Standing(s.conn.ConnectionState())
			if err := standing.Check(); err != nil {
				t.Fatalf("before anything changed: %v", err)
			}
			test.change(w, a1)
			for range 2 { // the answer must not depend on having been asked
				err := standing.Check()
				if test.want == nil && err != nil || test.want != nil && !test.want(err) {
					t.Errorf("Check: %v", err)
				}
			}
		})
	}
}

// A host whose binding arrives after its handshake is checked against it then.
func TestStandingOfOneWhoseBindingArrivesLate(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	known := atomic.Bool{}
	a1.hostKeyOf = func(node string) ([]byte, bool) {
		if node == "a2" && !known.Load() {
			return nil, false
		}
		if node == "a2" {
			return a1.host.HostKey(), true // of another host
		}
		return w.hostKeyOf(node)
	}
	s, c := connect(t, a1.ServerTLS(meshProtos...), a2.ClientTLS("a1", transport.ALPNRPC))
	if s.err != nil || c.err != nil {
		t.Fatal(s.err, c.err)
	}
	standing := a1.Standing(s.conn.ConnectionState())
	if err := standing.Check(); err != nil {
		t.Fatal(err)
	}
	known.Store(true)
	if err := standing.Check(); !errors.Is(err, ErrHostSignature) {
		t.Errorf("Check: %v", err)
	}
}
