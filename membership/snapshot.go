package membership

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"go.uber.org/zap"
)

// minLook is the least time between two looks at memberlist's state.
const minLook = 20 * time.Millisecond

// membersPerLook: with more members than this the looks become rarer, so that their cost stays.
const membersPerLook = 256

// viewLoop keeps the view current. memberlist's events do not tell of suspects, and its list does
// not show states, so the loop asks for its state as a peer would.
func (m *Membership) viewLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var looked time.Time
	rarer := int64(1)
	for {
		select {
		case <-ctx.Done():
			return
		case done := <-m.leaves:
			done <- m.leave()
			m.look()
			continue
		case <-m.kick:
			pause(ctx, looked.Add(time.Duration(rarer*int64(minLook))).Sub(m.opts.Now()))
		case <-timer.C:
		}
		rarer = int64(1 + m.refresh(ctx)/membersPerLook)
		timer.Reset(m.opts.NextBeat(time.Duration(rarer * int64(m.opts.Timing.ProbeInterval))))
		looked = m.opts.Now()
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// refresh takes memberlist's state into the view, mends what memberlist cannot, and signs our
// record anew when refutations have used it up. It returns the number of members.
func (m *Membership) refresh(ctx context.Context) int {
	states, err := m.snapshot(ctx)
	if err != nil {
		return 0
	}
	paths := make(map[string]Path)
	for _, l := range m.under.stats() {
		paths[l.Node] = l.Path
	}
	members := make([]Member, 0, len(states))
	for i := range states {
		if member, ok := m.member(&states[i]); ok {
			member.Path = paths[member.Name]
			members = append(members, member)
		}
	}
	for _, name := range m.view.update(members) {
		m.fw.known.forget(name)
	}
	if m.own.due() && !m.opts.bare {
		_, _, incarnation := m.own.view()
		m.renew(incarnation+1, false, time.Millisecond)
	}
	return len(states)
}

// member turns one of memberlist's states into the view's, after mending it if needed.
func (m *Membership) member(s *wireState) (Member, bool) {
	addr, ok := netip.AddrFromSlice(s.Addr)
	if !ok {
		return Member{}, false
	}
	out := Member{Name: s.Name, Addr: netip.AddrPortFrom(addr.Unmap(), s.Port)}
	switch s.State {
	case wireAlive:
		out.State = StateAlive
	case wireSuspect:
		out.State = StateSuspect
	case wireDead:
		out.State = StateDead
	case wireLeft:
		out.State = StateLeft
	}
	if s.Name == m.opts.Name {
		m.own.reached(s.Incarnation)
	}
	r, _, _, err := decodeRecord(s.Meta)
	if err != nil {
		return out, m.opts.bare
	}
	if s.Name != m.opts.Name && !m.opts.bare {
		if moved, ok := m.mend(s, r, out); ok {
			r, out.Addr = moved, moved.Addr
			out.State = StateAlive
		}
	}
	out.Zone, out.Version, out.Epoch, out.Host = r.Zone, r.Version, r.Epoch, r.Binding
	return out, true
}

// mend does what memberlist cannot. A member that came back at another address conflicts with
// itself until it is found dead; its newer record proves the move, so we declare the old one dead
// to ourselves and the new one alive. And a member whose binding was withdrawn is dead to us at
// once; NotifyAlive keeps it so. It returns the newer record while a move is under way.
func (m *Membership) mend(s *wireState, r record, now Member) (record, bool) {
	if !m.fw.records.bound(r) {
		if k, ok := m.fw.known.get(s.Name); !ok || !m.fw.records.bound(k.record) {
			if !now.State.Gone() {
				m.injectDead(s)
			}
			return record{}, false
		}
	}
	k, ok := m.fw.known.get(s.Name)
	if !ok || k.Addr == now.Addr || k.older(r) || !m.fw.records.bound(k.record) {
		return record{}, false
	}
	if now.State.Gone() {
		m.under.inject(aliveMessage(k.record, k.meta, k.incarnation), m.selfAddr())
	} else {
		m.injectDead(s)
	}
	m.look()
	return k.record, !k.Leaving
}

func (m *Membership) injectDead(s *wireState) {
	m.under.inject(encodeMsg(msgDead, &wireAccusation{
		Incarnation: s.Incarnation, Node: s.Name, From: m.opts.Name,
	}), m.selfAddr())
}

func (m *Membership) selfAddr() net.Addr { return net.UDPAddrFromAddrPort(m.opts.Advertise) }

// renew signs and announces a new record; it waits for the announcement for at most the timeout.
func (m *Membership) renew(base uint32, leaving bool, timeout time.Duration) {
	if err := m.own.resign(base, leaving); err != nil {
		m.opts.Log.Error("member record not renewed", zap.Error(err))
		return
	}
	// The only error is that the announcement is still on its way.
	_ = m.list.UpdateNode(timeout)
}

// leave announces by a signed record that we go, then tells memberlist.
func (m *Membership) leave() error {
	_, _, incarnation := m.own.view()
	if !m.opts.bare {
		m.renew(incarnation+1, true, m.opts.Timing.ProbeInterval)
	}
	if err := m.list.Leave(m.opts.Timing.StreamTimeout); err != nil {
		return fmt.Errorf("leave gossip: %w", err)
	}
	return nil
}

// unhurried is an end of a pipe without deadlines: both ends are in this process, and Go's timer for a deadline of a pipe goes
// on after the pipe is closed, and wakes the process for nothing.
type unhurried struct{ net.Conn }

// SetDeadline implements net.Conn.
func (unhurried) SetDeadline(time.Time) error { return nil }

// snapshot asks memberlist for its state by an exchange over a pipe, as a peer with no members
// would.
func (m *Membership) snapshot(ctx context.Context) ([]wireState, error) {
	ours, theirs := net.Pipe()
	defer func() { _ = ours.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = ours.Close() })
	defer stop()
	select {
	case m.under.streams <- unhurried{theirs}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if _, err := ours.Write(encodePushPull(nil, false)); err != nil {
		return nil, err
	}
	br := bufio.NewReader(ours)
	if _, err := br.ReadByte(); err != nil {
		return nil, err
	}
	dec := codec.NewDecoder(br, msgpackHandle())
	var head wirePushPull
	if err := dec.Decode(&head); err != nil {
		return nil, err
	}
	states := make([]wireState, head.Nodes)
	for i := range states {
		if err := dec.Decode(&states[i]); err != nil {
			return nil, err
		}
	}
	if _, err := io.CopyN(io.Discard, br, int64(head.UserStateLen)); err != nil { // else memberlist could not finish
		return nil, err
	}
	return states, nil
}
