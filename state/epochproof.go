package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

const (
	// MaxEpochStatements is how many recoveries a state remembers, and a proof holds: the newest.
	MaxEpochStatements = 32
	// MaxEpochSignature is more than an ECDSA signature by a P-256 key has, in bytes.
	MaxEpochSignature = 96

	// EpochStatementBytes is more than any encoded statement has, and MaxEpochProofBytes than any proof.
	EpochStatementBytes = 1024
	MaxEpochProofBytes  = MaxEpochStatements*(EpochStatementBytes+2) + 2
)

// EpochStatement says that the cluster goes on in a new epoch, in the words of the host that began it. Who still lives in
// an older epoch believes it by its own state alone: the signature is by the host key that this state binds to the node,
// and the node is allowed in the core. So one host of those that could lead can end an epoch, and nobody else. A statement
// of an epoch that is no newer than the known one says nothing, so repeating it does no harm.
type EpochStatement struct {
	ClusterID   string // 32 hex digits
	Epoch       Epoch  // that began
	Before      Epoch  // the newest one known to who began it
	Index, Term uint64 // where its history begins
	Node        string // that began it
	Signature   []byte // by its host key, or with HostKey by a root, over Signed
	// HostKey (SubjectPublicKeyInfo DER) is of a host that nobody knew before, empty for one that everybody did: with a
	// backup and the recovery key any host begins an epoch. A root signs that, and Address is where the host is found.
	HostKey []byte
	Address string
}

var (
	// ErrEpochUnproven is wrapped by ProveEpoch: nothing that was shown proves a newer epoch.
	ErrEpochUnproven = errors.New("no newer epoch is proven")
	// ErrEpochSplit is wrapped by ProveEpoch: the epoch that was shown goes on from another one than ours, with the same
	// number. A person has to decide.
	ErrEpochSplit = errors.New("the cluster was recovered twice")
)

// Signed is what the signature covers.
func (s EpochStatement) Signed() []byte {
	s.Signature = nil
	return encodeEpochStatement(s)
}

func encodeEpochStatement(s EpochStatement) []byte {
	b := appendString(newRow(256), s.ClusterID)
	b = s.Before.Append(s.Epoch.Append(b))
	b = binary.AppendUvarint(b, s.Index)
	b = binary.AppendUvarint(b, s.Term)
	b = appendString(b, s.Node)
	b = appendBytes(b, s.Signature)
	if len(s.HostKey) > 0 {
		b = appendString(appendBytes(b, s.HostKey), s.Address)
	}
	return b
}

func decodeEpochStatement(row []byte) (EpochStatement, error) {
	r := openRow(row)
	s := EpochStatement{ClusterID: r.string(32, "cluster id"), Epoch: r.epoch(), Before: r.epoch()}
	s.Index, s.Term = r.uvarint(), r.uvarint()
	s.Node = r.string(MaxNameBytes, "node")
	s.Signature = r.bytes(MaxEpochSignature, "signature")
	if len(r.b) > 0 {
		s.HostKey, s.Address = r.bytes(MaxHostKeyBytes, "host key"), r.string(MaxAddressBytes, "address")
		if len(s.HostKey) == 0 {
			r.fail("host key is empty")
		}
	}
	if err := r.done(); err != nil {
		return EpochStatement{}, err
	}
	if err := s.check(); err != nil {
		return EpochStatement{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return s, nil
}

func (r *reader) epoch() (e Epoch) {
	if b := r.take(EpochBytes, "epoch"); b != nil {
		e, _, _ = CutEpoch(b)
	}
	return e
}

// check refuses what no recovery makes.
func (s EpochStatement) check() error {
	switch {
	case !checkHex(s.ClusterID, 32):
		return fmt.Errorf("cluster id %.40q", s.ClusterID)
	case s.Before.Counter == 0 || s.Epoch.Counter != s.Before.Counter+1:
		return fmt.Errorf("epoch %d after %d", s.Epoch.Counter, s.Before.Counter)
	case len(s.Signature) == 0:
		return errors.New("no signature")
	}
	return CheckNodeName(s.Node)
}

// epochKey is where a statement stands in TableEpoch.
func epochKey(counter uint64) string { return string(binary.BigEndian.AppendUint64(nil, counter)) }

func checkEpochRow(key string, row []byte) error {
	s, err := decodeEpochStatement(row)
	if err == nil && key != epochKey(s.Epoch.Counter) {
		err = fmt.Errorf("%w: row of another key", ErrMalformed)
	}
	return err
}

// EpochStatements are those that led to the present epoch, oldest first; none in the first.
func (v *View) EpochStatements() []EpochStatement {
	return rows(v.s, TableEpoch, func(r *record) (EpochStatement, error) { return decodeEpochStatement(r.row) })
}

// EncodeEpochProof encodes at most MaxEpochStatements, the newest.
func EncodeEpochProof(list []EpochStatement) []byte {
	list = list[max(0, len(list)-MaxEpochStatements):]
	b := binary.AppendUvarint(nil, uint64(len(list)))
	for _, s := range list {
		b = appendBytes(b, encodeEpochStatement(s))
	}
	return b
}

// DecodeEpochProof reads what EncodeEpochProof wrote. The error wraps ErrMalformed.
func DecodeEpochProof(b []byte) ([]EpochStatement, error) {
	if len(b) > MaxEpochProofBytes {
		return nil, fmt.Errorf("%w: proof of %d bytes", ErrMalformed, len(b))
	}
	r := &reader{b: b}
	var list []EpochStatement
	for range r.count(MaxEpochStatements, "statements") {
		s, err := decodeEpochStatement(r.bytes(EpochStatementBytes, "statement"))
		if r.err != nil {
			return nil, r.err
		}
		if err != nil {
			return nil, err
		}
		s.Signature, s.HostKey = bytes.Clone(s.Signature), bytes.Clone(s.HostKey) // b is not ours
		list = append(list, s)
	}
	return list, r.done()
}

// ProveEpoch goes through statements, oldest first, as far as this state proves them, and returns the newest epoch that
// they lead to from known. valid verifies a signature by a host key (SubjectPublicKeyInfo DER) or by a root (certificate
// DER). What is no newer than known is skipped. The error wraps ErrEpochUnproven or ErrEpochSplit when there is nothing newer; known is returned then.
func (v *View) ProveEpoch(known Epoch, list []EpochStatement, valid func(key, signed, signature []byte) bool) (Epoch, error) {
	known, _, err := v.prove(known, list, valid)
	return known, err
}

// Founders are the statements of a proof, as far as this state proves it, that bring in hosts which this state does not
// know.
func (v *View) Founders(list []EpochStatement, valid func(key, signed, signature []byte) bool) []EpochStatement {
	_, founders, _ := v.prove(v.Cluster().Epoch, list, valid)
	return founders
}

func (v *View) prove(known Epoch, list []EpochStatement, valid func(key, signed, signature []byte) bool) (_ Epoch, founders []EpochStatement, _ error) {
	began := known
	var refused error
	for _, s := range list[:min(len(list), MaxEpochStatements)] {
		if s.Epoch.Counter <= known.Counter {
			continue
		}
		if refused = v.proves(known, s, founders, valid); refused != nil {
			break
		}
		if len(s.HostKey) > 0 {
			founders = append(founders, s)
		}
		known = s.Epoch
	}
	switch {
	case known != began:
		return known, founders, nil
	case refused != nil:
		return known, nil, refused
	}
	return known, nil, fmt.Errorf("%w: %d statements, none newer than epoch %d", ErrEpochUnproven, len(list), known.Counter)
}

// proves says why a statement, of an epoch after known, is not to be believed.
func (v *View) proves(known Epoch, s EpochStatement, founders []EpochStatement, valid func(key, signed, signature []byte) bool) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrEpochUnproven, err)
	}
	n, ok := v.Node(s.Node)
	for _, f := range founders {
		if f.Node == s.Node {
			n, ok = Node{Name: f.Node, HostKey: f.HostKey, CoreGrant: true}, true
		}
	}
	signedByRoot := func(root []byte) bool { return valid(root, s.Signed(), s.Signature) }
	switch {
	case s.ClusterID != v.Cluster().ID:
		return fmt.Errorf("%w: it is of cluster %s", ErrEpochUnproven, s.ClusterID)
	case len(s.HostKey) > 0 && ok && !bytes.Equal(n.HostKey, s.HostKey):
		return fmt.Errorf("%w: the name %q belongs to another host", ErrEpochUnproven, s.Node)
	case len(s.HostKey) > 0 && !slices.ContainsFunc(v.authorities(), signedByRoot):
		return fmt.Errorf("%w: epoch %d is not signed by a root of the trust bundle", ErrEpochUnproven, s.Epoch.Counter)
	case len(s.HostKey) > 0:
	case !ok || n.Left:
		return fmt.Errorf("%w: this cluster has no node %q", ErrEpochUnproven, s.Node)
	case !n.CoreGrant:
		return fmt.Errorf("%w: the node %q is not allowed in the core", ErrEpochUnproven, s.Node)
	case !valid(n.HostKey, s.Signed(), s.Signature):
		return fmt.Errorf("%w: epoch %d is not signed by the host key of %s", ErrEpochUnproven, s.Epoch.Counter, s.Node)
	}
	if s.Before.Counter == known.Counter && s.Before != known {
		return fmt.Errorf("%w: epoch %d goes on from %s, here it was %s", ErrEpochSplit, s.Epoch.Counter, s.Before, known)
	}
	return nil
}

// stateEpoch puts the statement about the epoch that begins into the state, behind those of before, of which too old ones
// are forgotten.
func (a *applying) stateEpoch(s EpochStatement, sign func(signed []byte) ([]byte, error)) (err error) {
	if s.Signature, err = sign(s.Signed()); err != nil {
		return fmt.Errorf("sign the new epoch: %w", err)
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("state the new epoch: %w", err)
	}
	a.set(TableEpoch, epochKey(s.Epoch.Counter), encodeEpochStatement(s))
	for a.s.tables[TableEpoch].rows > MaxEpochStatements {
		oldest := ""
		a.s.scan(TableEpoch, "", "", func(r *record) bool { oldest = r.key; return false })
		a.set(TableEpoch, oldest, nil)
	}
	return nil
}
