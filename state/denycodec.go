package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/parley-mesh/parley/clock"
)

// DenyMark names what is denied in 16 bytes, so that what is told of it is small whatever its name is.
type DenyMark [16]byte

func markOf(kind, subject string) DenyMark {
	sum := sha256.Sum256([]byte("parley denied " + kind + "\x00" + subject))
	return DenyMark(sum[:16])
}

// MarkOfID is the mark of a SPIFFE ID.
func MarkOfID(id string) DenyMark { return markOf(string(DenyID), id) }

// MarkOfSerial is that of a certificate, by the bytes of its serial number.
func MarkOfSerial(serial []byte) DenyMark {
	return markOf(string(DenySerial), hex.EncodeToString(serial))
}

// MarkOfHost is that of an evicted host, by the SHA-256 of its key's SubjectPublicKeyInfo.
func MarkOfHost(keyHash [32]byte) DenyMark { return markOf("host", string(keyHash[:])) }

// MarkOfIssuer is that of an evicted core member as an issuer.
func MarkOfIssuer(node string) DenyMark { return markOf("issuer", node) }

func (c DenySet) append(b []byte) []byte {
	b = appendString(appendString(b, string(c.Kind)), c.Subject)
	return appendString(binary.AppendUvarint(b, c.Seconds), c.Reason)
}

func readDenySet(r *reader) Command {
	return DenySet{
		Kind: DenyKind(r.string(8, "kind")), Subject: r.string(MaxSPIFFEIDBytes, "subject"), Seconds: r.uvarint(), Reason: r.string(MaxReasonBytes, "reason"),
	}
}

func (c DenyRemove) append(b []byte) []byte {
	return appendString(appendString(b, string(c.Kind)), c.Subject)
}

func readDenyRemove(r *reader) Command {
	return DenyRemove{Kind: DenyKind(r.string(8, "kind")), Subject: r.string(MaxSPIFFEIDBytes, "subject")}
}

// EncodeDeny returns the row; DenySet answers with one.
func EncodeDeny(d Deny) []byte {
	b := appendString(appendString(newRow(192), string(d.Kind)), d.Subject)
	b = appendBool(binary.AppendUvarint(b, d.Until), d.Removed)
	b = binary.AppendUvarint(b, uint64(d.At))
	return appendString(appendString(b, d.By), d.Reason)
}

// DecodeDeny reads what EncodeDeny wrote. The error is ErrMalformed, wrapped.
func DecodeDeny(row []byte) (Deny, error) {
	r := openRow(row)
	d := Deny{
		Kind: DenyKind(r.string(8, "kind")), Subject: r.string(MaxSPIFFEIDBytes, "subject"), Until: r.uvarint(), Removed: r.bool("removed"),
		At: clock.Stamp(r.uvarint()),
	}
	d.By, d.Reason = r.string(MaxCallerBytes, "caller"), r.string(MaxReasonBytes, "reason")
	return d, r.done()
}
