package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/parley-mesh/parley/clock"
)

const (
	// MaxDenials is how many evictions are remembered, the newest. It is part of the meaning of version 1 of NodeEvict.
	MaxDenials = 10_000
	// MaxReasonBytes bounds why.
	MaxReasonBytes = 256
)

// Denial is an eviction: what belonged to the host counts no more. The name may be given to another host, the host key to
// nobody.
type Denial struct {
	HostKeyHash [32]byte // SHA-256 of its SubjectPublicKeyInfo
	Node        string
	Issuer      bool // it was in the core: what it signed until At does not count either
	At          clock.Stamp
	By          string // the caller of the command
	Reason      string
}

// NodeEvict denies a node for good: its identity, its host key, and if it ever was in the core its issuer. Of a core member
// it asks for another root in the same step: its host has been able to open this one.
type NodeEvict struct{ Node, Reason string }

func (NodeEvict) kind() kind { return kindNodeEvict }

func (c NodeEvict) check() error {
	if len(c.Reason) > MaxReasonBytes || strings.ContainsAny(c.Reason, "\n\r") {
		return fmt.Errorf("the reason has %d bytes: use one line of at most %d", len(c.Reason), MaxReasonBytes)
	}
	return CheckNodeName(c.Node)
}

func (c NodeEvict) append(b []byte) []byte { return appendString(appendString(b, c.Node), c.Reason) }

func readNodeEvict(r *reader) Command {
	return NodeEvict{Node: r.string(MaxNameBytes, "node name"), Reason: r.string(MaxReasonBytes, "reason")}
}

func (c NodeEvict) apply(a *applying) Result {
	n, ok := a.s.node(c.Node)
	if !ok {
		return refuse(CodeNotFound, "there is no node %q", c.Node)
	}
	d := Denial{HostKeyHash: sha256.Sum256(n.HostKey), Node: c.Node, Issuer: a.s.wasIssuer(c.Node), At: a.at, By: a.caller, Reason: c.Reason}
	if _, again := a.s.get(TableDenial, string(d.HostKeyHash[:])); again {
		return Result{} // a retry
	}
	a.set(TableDenial, string(d.HostKeyHash[:]), encodeDenial(d))
	a.limitDenials()
	res := NodeSetLeft{Node: c.Node, Left: true}.apply(a)
	a.editNode(c.Node, func(n *Node) { n.CoreGrant = false })
	if d.Issuer {
		a.abandonNext() // it was sealed to that host too
		CARotate{Compromised: true}.apply(a)
	}
	return res
}

// limitDenials forgets the oldest beyond the limit.
func (a *applying) limitDenials() {
	for a.s.tables[TableDenial].rows > MaxDenials {
		oldest, at := "", clock.Stamp(0)
		a.s.scan(TableDenial, "", "", func(r *record) bool {
			if d := must(decodeDenial(r.row)); oldest == "" || d.At < at {
				oldest, at = r.key, d.At
			}
			return true
		})
		a.set(TableDenial, oldest, nil)
	}
}

// deniedKey refuses a host key that was evicted.
func (a *applying) deniedKey(hostKey []byte) Result {
	hash := sha256.Sum256(hostKey)
	if r, ok := a.s.get(TableDenial, string(hash[:])); ok {
		return refuse(CodeDenied, "this host was evicted as %q: set it up anew, with an empty data directory", must(decodeDenial(r.row)).Node)
	}
	return Result{}
}

// recoverDenials adds those that a later copy of the public state knows: no recovery takes an eviction back.
func (a *applying) recoverDenials(known *View) {
	if known == nil {
		return
	}
	for _, d := range known.Denials() {
		a.set(TableDenial, string(d.HostKeyHash[:]), encodeDenial(d))
	}
}

func encodeDenial(d Denial) []byte {
	b := appendString(append(newRow(160), d.HostKeyHash[:]...), d.Node)
	b = binary.AppendUvarint(appendBool(b, d.Issuer), uint64(d.At))
	return appendString(appendString(b, d.By), d.Reason)
}

func decodeDenial(row []byte) (Denial, error) {
	r := openRow(row)
	d := Denial{HostKeyHash: r.fixed32("host key"), Node: r.string(MaxNameBytes, "node name"), Issuer: r.bool("issuer"), At: clock.Stamp(r.uvarint())}
	d.By, d.Reason = r.string(MaxCallerBytes, "caller"), r.string(MaxReasonBytes, "reason")
	return d, r.done()
}

func checkDenialRow(key string, row []byte) error {
	d, err := decodeDenial(row)
	if err == nil && !bytes.Equal([]byte(key), d.HostKeyHash[:]) {
		err = errors.Join(ErrMalformed, errors.New("row of another key"))
	}
	return err
}

// Denials returns all evictions that are remembered.
func (v *View) Denials() []Denial {
	return rows(v.s, TableDenial, func(r *record) (Denial, error) { return decodeDenial(r.row) })
}

// WasIssuer reports whether a node is in the core, or ever was as far as is remembered: it can have opened the root.
func (v *View) WasIssuer(node string) bool { return v.s.wasIssuer(node) }

func (s *store) wasIssuer(node string) bool {
	if _, sealed := s.get(TableSeal, node); sealed {
		return true
	}
	found := false
	s.scan(TableCore, "", "", func(r *record) bool {
		found = must(decodeCore(r.row)).Node == node
		return !found
	})
	return found
}
