package state

import (
	"bytes"
	"fmt"
)

// Recovery is the root's key sealed to the recovery key, which is kept outside the cluster and opens it when every host
// that could is gone.
type Recovery struct {
	SealKey []byte // X25519 public key, to which the next root is sealed as well
	Sealed  []byte
}

// RecoverySet replaces the recovery key. The old one opens no root that the state holds any more.
type RecoverySet struct{ Recovery Recovery }

func (RecoverySet) kind() kind { return kindRecoverySet }

func (c RecoverySet) check() error { return c.Recovery.check() }

func (r Recovery) check() error {
	if len(r.SealKey) != SealKeyBytes {
		return fmt.Errorf("the recovery key has %d bytes: an X25519 public key has %d", len(r.SealKey), SealKeyBytes)
	}
	if len(r.Sealed) == 0 || len(r.Sealed) > MaxSealedBytes {
		return fmt.Errorf("the sealed root has %d bytes: use 1 to %d", len(r.Sealed), MaxSealedBytes)
	}
	return nil
}

func (c RecoverySet) append(b []byte) []byte { return appendRecovery(b, c.Recovery) }

func readRecoverySet(r *reader) Command { return RecoverySet{readRecovery(r)} }

func (c RecoverySet) apply(a *applying) Result {
	row := encodeRecovery(c.Recovery)
	if old, ok := a.s.get(TableRecovery, ""); !ok || !bytes.Equal(old.row, row) {
		a.set(TableRecovery, "", row)
	}
	return Result{}
}

func appendRecovery(b []byte, r Recovery) []byte {
	return appendBytes(appendBytes(b, r.SealKey), r.Sealed)
}

func readRecovery(r *reader) Recovery {
	return Recovery{SealKey: r.bytes(SealKeyBytes, "recovery key"), Sealed: r.bytes(MaxSealedBytes, "seal")}
}

func encodeRecovery(r Recovery) []byte { return appendRecovery(newRow(512), r) }

func decodeRecovery(row []byte) (Recovery, error) {
	r := openRow(row)
	out := readRecovery(&r)
	return out, r.done()
}

// Recovery returns the root sealed to the recovery key, false when there is none.
func (v *View) Recovery() (Recovery, bool) {
	r, ok := v.s.get(TableRecovery, "")
	if !ok {
		return Recovery{}, false
	}
	return must(decodeRecovery(r.row)), true
}
