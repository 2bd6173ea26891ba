package state

import (
	"bytes"
	"errors"
	"fmt"
)

// HardSealKeyBytes is the length of a seal key on P-256, which is what TPMs have: uncompressed, 4 and two coordinates.
const HardSealKeyBytes = 65

// SealKey is the public key that the root is sealed to for a node, where it is another than the one that the node joined
// with: its private half is in the node's TPM.
type SealKey struct {
	Node string
	Key  []byte
}

// SealKeySet says to which key the root is sealed for a node from now on, and has it sealed to that key in the same step,
// for a node that it is sealed for: nobody loses it by this. Key is on P-256, or the one that the node joined with.
// Signing and Next are the roots that Sealed and NextSealed are of.
type SealKeySet struct {
	Node          string
	Key           []byte
	Signing, Next RootHash
	Sealed        []byte // empty for a node that the root is not sealed for
	NextSealed    []byte
}

func (SealKeySet) kind() kind { return kindSealKeySet }

func (c SealKeySet) check() error {
	switch {
	case len(c.Sealed) > MaxSealedBytes || len(c.NextSealed) > MaxSealedBytes:
		return fmt.Errorf("the sealed keys have %d and %d bytes: at most %d are allowed", len(c.Sealed), len(c.NextSealed), MaxSealedBytes)
	case len(c.Key) != SealKeyBytes && len(c.Key) != HardSealKeyBytes:
		return fmt.Errorf("the seal key has %d bytes, not %d or %d", len(c.Key), SealKeyBytes, HardSealKeyBytes)
	case len(c.Key) == HardSealKeyBytes && c.Key[0] != 4:
		return errors.New("the seal key is not an uncompressed point")
	}
	return CheckNodeName(c.Node)
}

func (c SealKeySet) append(b []byte) []byte {
	b = appendBytes(appendString(b, c.Node), c.Key)
	b = append(append(b, c.Signing[:]...), c.Next[:]...)
	return appendBytes(appendBytes(b, c.Sealed), c.NextSealed)
}

func readSealKeySet(r *reader) Command {
	return SealKeySet{
		Node: r.string(MaxNameBytes, "node name"), Key: r.bytes(HardSealKeyBytes, "seal key"),
		Signing: r.fixed32("root"), Next: r.fixed32("root"),
		Sealed: r.bytes(MaxSealedBytes, "seal"), NextSealed: r.bytes(MaxSealedBytes, "seal"),
	}
}

func (c SealKeySet) apply(a *applying) Result {
	n, ok := a.s.node(c.Node)
	_, sealed := a.s.get(TableSeal, c.Node)
	_, next := a.s.get(TableNextSeal, c.Node)
	switch {
	case !ok || n.Left:
		return refuse(CodeNotFound, "there is no node %q, or it has left", c.Node)
	case len(c.Key) == SealKeyBytes && !bytes.Equal(c.Key, n.SealKey):
		return refuse(CodeInvalid, "the node %q joined with another seal key", c.Node)
	case sealed != (len(c.Sealed) > 0) || next != (len(c.NextSealed) > 0):
		return refuse(CodeConflict, "the root is sealed for other nodes than before: look again")
	case sealed && c.Signing != a.s.signing() || next && c.Next != a.s.authority().Next:
		return refuse(CodeConflict, "the roots have changed: seal those of now")
	}
	a.setSealKey(n, c.Key)
	if sealed {
		a.replace(TableSeal, c.Node, encodeSeal(Seal{Node: c.Node, Sealed: c.Sealed}))
	}
	if next {
		a.replace(TableNextSeal, c.Node, encodeSeal(Seal{Node: c.Node, Sealed: c.NextSealed}))
	}
	return Result{}
}

// setSealKey keeps a row for a key that is not in the node's own.
func (a *applying) setSealKey(n Node, key []byte) {
	if !bytes.Equal(key, n.SealKey) {
		a.replace(TableSealKey, n.Name, encodeSealKey(SealKey{Node: n.Name, Key: key}))
	} else if _, ok := a.s.get(TableSealKey, n.Name); ok {
		a.set(TableSealKey, n.Name, nil)
	}
}

// replace writes a row unless it is there as it is.
func (a *applying) replace(t Table, key string, row []byte) {
	if old, ok := a.s.get(t, key); !ok || !bytes.Equal(old.row, row) {
		a.set(t, key, row)
	}
}

func encodeSealKey(k SealKey) []byte {
	return appendBytes(appendString(newRow(len(k.Node)+len(k.Key)), k.Node), k.Key)
}

func decodeSealKey(row []byte) (SealKey, error) {
	r := openRow(row)
	k := SealKey{Node: r.string(MaxNameBytes, "node name"), Key: r.bytes(HardSealKeyBytes, "seal key")}
	return k, r.done()
}

// SealKey returns the public key that the root is to be sealed to for a node.
func (v *View) SealKey(node string) ([]byte, bool) {
	if r, ok := v.s.get(TableSealKey, node); ok {
		return must(decodeSealKey(r.row)).Key, true
	}
	n, ok := v.Node(node)
	return n.SealKey, ok
}
