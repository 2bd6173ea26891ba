package membership

import (
	"errors"
	"log"
	"net/netip"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
)

// delegate is what memberlist calls, mostly with its lock held: nothing here may call memberlist,
// or wait.
type delegate struct{ m *Membership }

var (
	_ memberlist.Delegate         = (*delegate)(nil)
	_ memberlist.AliveDelegate    = (*delegate)(nil)
	_ memberlist.EventDelegate    = (*delegate)(nil)
	_ memberlist.ConflictDelegate = (*delegate)(nil)
)

var (
	errStale   = errors.New("an older record than the one known")
	errAddress = errors.New("not the name or address in the record")
)

// NodeMeta is our signed record.
func (d *delegate) NodeMeta(int) []byte {
	_, meta, _ := d.m.own.view()
	return meta
}

// NotifyAlive refuses what is not covered by a current record. The firewall refused it before;
// this holds also for what reaches memberlist otherwise, and after a binding was withdrawn.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == d.m.opts.Name {
		return nil
	}
	r, err := d.m.fw.records.verify(n.Meta)
	if err != nil {
		return err
	}
	addr, _ := netip.AddrFromSlice(n.Addr)
	switch {
	case r.Name != n.Name || r.Addr != netip.AddrPortFrom(addr.Unmap(), n.Port):
		return errAddress
	case !d.m.fw.known.current(r):
		return errStale
	}
	return nil
}

// The events only say that something happened; the view loop looks what it is.

func (d *delegate) NotifyJoin(*memberlist.Node)          { d.m.look() }
func (d *delegate) NotifyLeave(*memberlist.Node)         { d.m.look() }
func (d *delegate) NotifyUpdate(*memberlist.Node)        { d.m.look() }
func (d *delegate) NotifyConflict(_, _ *memberlist.Node) { d.m.look() }
func (d *delegate) NotifyMsg([]byte)                     {}
func (d *delegate) MergeRemoteState(_ []byte, _ bool)    {}

// GetBroadcasts adds what is told to a packet of news. memberlist takes overhead bytes for each message.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	room := limit - overhead
	if d.m.opts.crowded {
		room = 0
	}
	if s := d.m.told.take(room); s != nil {
		return [][]byte{s}
	}
	return nil
}

// LocalState is what is told in a state exchange.
func (d *delegate) LocalState(bool) []byte {
	if d.m.opts.Told == nil || d.m.opts.bare {
		return nil
	}
	return encodeStatements(d.m.opts.Told())
}

// listLog is memberlist's log as debug lines: it reports every lost packet as an error.
type listLog struct{ log *zap.Logger }

func newListLogger(l *zap.Logger) *log.Logger { return log.New(listLog{l}, "", 0) }

func (l listLog) Write(line []byte) (int, error) {
	if e := l.log.Check(zap.DebugLevel, "memberlist"); e != nil {
		e.Write(zap.ByteString("text", line))
	}
	return len(line), nil
}
