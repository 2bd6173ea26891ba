package state

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/parley-mesh/parley/clock"
)

const (
	// MaxDenyNotices is how many denials a statement tells of, the newest; MaxShortNotices, how many one that fits into a packet
	// of gossip does.
	MaxDenyNotices  = 256
	MaxShortNotices = 20

	denyNoticeBytes = 16 + 8 + 8 + 7 // at most

	// MaxDenyStatementBytes is more than any encoded statement has, and MaxShortStatementBytes than one of MaxShortNotices.
	MaxDenyStatementBytes  = 256 + MaxDenyNotices*denyNoticeBytes
	MaxShortStatementBytes = 190 + MaxShortNotices*denyNoticeBytes
	maxDenySignatureBytes  = 96
)

// DenyNotice tells of one denial, or that it was removed: as much as who is cut off from the core has to know of it.
type DenyNotice struct {
	Mark     DenyMark
	Revision uint64      // of the row: a state of that revision needs no notice of it
	At       clock.Stamp // when it was decided
	Until    uint64      // Unix seconds; 0: for good
	Removed  bool
}

// Counts reports whether it denies something at a time (Unix seconds).
func (n DenyNotice) Counts(now uint64) bool { return !n.Removed && !ended(n.Until, now) }

// Includes reports whether the View knows what a notice tells, so that its own rows count in place of it. The stamps of a log
// only grow, over recoveries too.
func (v *View) Includes(n DenyNotice) bool { return v.Revision() >= n.Revision || v.Stamp() > n.At }

// DenyStatement is what a member of the core tells of the newest denials, signed by its host key. Any agent can check it by its own
// state, as it does an epoch statement: the signer is a node that it knows, that has not left, and that is in the core.
// A statement says nothing to who has a state that is as new, so repeating it does no harm.
type DenyStatement struct {
	Node      string
	Notices   []DenyNotice // the newest first
	Signature []byte       // over Signed
}

// Newest is when the newest of it was decided.
func (s DenyStatement) Newest() clock.Stamp { return s.Notices[0].At }

// Signed is what the signature covers.
func (s DenyStatement) Signed(clusterID string) []byte {
	s.Signature = nil
	return append(appendString(nil, clusterID), EncodeDenyStatement(s)...)
}

// EncodeDenyStatement encodes it.
func EncodeDenyStatement(s DenyStatement) []byte {
	b := appendString(newRow(256+len(s.Notices)*denyNoticeBytes), s.Node)
	b = binary.AppendUvarint(b, uint64(len(s.Notices)))
	for _, n := range s.Notices {
		b = append(b, n.Mark[:]...)
		b = binary.BigEndian.AppendUint64(b, n.Revision)
		b = binary.BigEndian.AppendUint64(b, uint64(n.At))
		removed := uint64(0)
		if n.Removed {
			removed = 1
		}
		b = binary.AppendUvarint(b, n.Until<<1|removed)
	}
	return appendBytes(b, s.Signature)
}

// DecodeDenyStatement reads what EncodeDenyStatement wrote; the result owns its bytes. The error wraps ErrMalformed.
func DecodeDenyStatement(b []byte) (DenyStatement, error) {
	if len(b) > MaxDenyStatementBytes {
		return DenyStatement{}, fmt.Errorf("%w: statement of %d bytes", ErrMalformed, len(b))
	}
	r := openRow(slices.Clone(b))
	s := DenyStatement{Node: r.string(MaxNameBytes, "node")}
	for range r.count(MaxDenyNotices, "notices") {
		n := DenyNotice{Mark: r.fixed16("mark"), Revision: r.fixed64("revision"), At: clock.Stamp(r.fixed64("stamp"))}
		end := r.uvarint()
		n.Until, n.Removed = end>>1, end&1 == 1
		s.Notices = append(s.Notices, n)
	}
	s.Signature = r.bytes(maxDenySignatureBytes, "signature")
	if err := r.done(); err != nil {
		return DenyStatement{}, err
	}
	if err := s.check(); err != nil {
		return DenyStatement{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return s, nil
}

func (r *reader) fixed64(what string) uint64 {
	if b := r.take(8, what); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (s DenyStatement) check() error {
	switch {
	case len(s.Notices) == 0:
		return errors.New("a statement about nothing")
	case len(s.Signature) == 0:
		return errors.New("no signature")
	}
	for i, n := range s.Notices {
		if n.Until > maxDenyUnixStamp || i > 0 && n.At > s.Notices[i-1].At {
			return errors.New("notices out of order, or an end that is no time")
		}
	}
	return CheckNodeName(s.Node)
}

// DenyNotices are what there is to tell at a time (Unix seconds) of the newest denials, at most so many, the newest first. Half of the places
// are for evictions, if there are as many, so that no flood of denials pushes them out; what has ended takes a place that nothing else
// needs: who has heard of a later end, or of none, has to hear of this one.
func (v *View) DenyNotices(now uint64, most int) []DenyNotice {
	var evictions, others, over []DenyNotice
	v.s.scan(TableDeny, "", "", func(r *record) bool {
		d := must(DecodeDeny(r.row))
		n := DenyNotice{Mark: d.Mark(), Revision: r.revision, At: d.At, Until: d.Until, Removed: d.Removed}
		if ended(d.Until, now) {
			over = append(over, n)
		} else {
			others = append(others, n)
		}
		return true
	})
	v.s.scan(TableDenial, "", "", func(r *record) bool {
		d := must(decodeDenial(r.row))
		evictions = append(evictions, DenyNotice{Mark: MarkOfHost(d.HostKeyHash), Revision: r.revision, At: d.At})
		if d.Issuer {
			evictions = append(evictions, DenyNotice{Mark: MarkOfIssuer(d.Node), Revision: r.revision, At: d.At})
		}
		return true
	})
	first, evictions := newestNotices(evictions, most/2)
	rest, _ := newestNotices(append(evictions, others...), most-len(first))
	fill, _ := newestNotices(over, most-len(first)-len(rest))
	all, _ := newestNotices(append(append(first, rest...), fill...), most)
	return all
}

// newestNotices orders notices and parts the newest from the others.
func newestNotices(all []DenyNotice, most int) (newest, others []DenyNotice) {
	slices.SortFunc(all, func(a, b DenyNotice) int {
		return cmp.Or(cmp.Compare(b.At, a.At), cmp.Compare(b.Revision, a.Revision), slices.Compare(a.Mark[:], b.Mark[:]))
	})
	n := min(len(all), most)
	return all[:n:n], all[n:]
}

// MayTellDenials returns the host key by which a statement of a node has to be signed, or why it tells nothing.
func (v *View) MayTellDenials(node string) (hostKey []byte, err error) {
	inCore := func(m CoreMember) bool { return m.Node == node && !m.Retired }
	switch n, ok := v.Node(node); {
	case !ok || n.Left:
		return nil, fmt.Errorf("this cluster has no node %q", node)
	case !n.CoreGrant || !slices.ContainsFunc(v.Core(), inCore):
		return nil, fmt.Errorf("the node %q is not in the core", node)
	default:
		return n.HostKey, nil
	}
}
