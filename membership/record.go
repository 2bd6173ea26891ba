package membership

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Limits of a record; together they stay well under memberlist's 512 bytes of Meta.
const (
	maxNameBytes      = 63
	maxZoneBytes      = 63
	maxVersionBytes   = 64 // of a build between releases, which Go names by tag, time and commit
	maxSignatureBytes = 72
	maxRecordBytes    = 512
)

const (
	recordFormat  = 1
	recordLeaving = 1 << 0
)

// incarnationSlack is how far a node's incarnation may be above the base that it signed, unless
// the node itself says so. Nobody else can raise it further, so nobody can drive it to wrap.
const incarnationSlack = 16

// record is what a node says about itself, signed by its host key. It rides in memberlist's Meta.
// (Epoch, Seq) orders the records of one host; the older is refused wherever the newer was seen.
type record struct {
	Name    string
	Addr    netip.AddrPort
	Epoch   uint64 // of this start of the host
	Seq     uint32 // of this record within the start
	Base    uint32 // incarnation when signed; see incarnationSlack
	Binding HostID // of the host key that the signature is to be checked with
	Leaving bool   // the node announces that it leaves, so that anyone may pass it on
	Zone    string
	Version string
}

// older reports whether r was signed before o, by the same host. Two hosts of one name count each for itself, and
// what the one counted must not hold the other dead, whom it may have been replaced for not to trust: between them
// the binding decides, by which records are verified, and that changes in the order of the log.
func (r record) older(o record) bool {
	if r.Binding != o.Binding {
		return false
	}
	if r.Epoch != o.Epoch {
		return r.Epoch < o.Epoch
	}
	return r.Seq < o.Seq
}

// ceiling is the highest incarnation that r vouches for.
func (r record) ceiling() uint64 { return uint64(r.Base) + incarnationSlack }

// bindingHash names the host key that belongs to a node.
func bindingHash(name string, spki []byte) HostID {
	h := sha256.New()
	h.Write([]byte("parley-binding/1\x00"))
	h.Write(binary.AppendUvarint(nil, uint64(len(name))))
	h.Write([]byte(name))
	h.Write(spki)
	return HostID(h.Sum(nil)[:16])
}

// body encodes what the signature covers, but for the cluster.
func (r record) body() []byte {
	var flags byte
	if r.Leaving {
		flags |= recordLeaving
	}
	ip := r.Addr.Addr().Unmap().AsSlice()
	b := make([]byte, 0, 300)
	b = append(b, recordFormat, flags)
	b = appendShort(b, []byte(r.Name))
	b = appendShort(b, ip)
	b = binary.BigEndian.AppendUint16(b, r.Addr.Port())
	b = binary.BigEndian.AppendUint64(b, r.Epoch)
	b = binary.BigEndian.AppendUint32(b, r.Seq)
	b = binary.BigEndian.AppendUint32(b, r.Base)
	b = append(b, r.Binding[:]...)
	b = appendShort(b, []byte(r.Zone))
	return appendShort(b, []byte(r.Version))
}

// recordDigest is what the host key signs.
func recordDigest(clusterID string, body []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte("parley-member-record/1\x00"))
	h.Write(binary.AppendUvarint(nil, uint64(len(clusterID))))
	h.Write([]byte(clusterID))
	h.Write(body)
	return [32]byte(h.Sum(nil))
}

// signRecord encodes r with the host key's signature, ready for Meta.
func signRecord(r record, clusterID string, key crypto.Signer) ([]byte, error) {
	body := r.body()
	digest := recordDigest(clusterID, body)
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign member record: %w", err)
	}
	if len(sig) > maxSignatureBytes {
		return nil, fmt.Errorf("sign member record: signature of %d bytes: the host key must be ECDSA P-256", len(sig))
	}
	return appendShort(body, sig), nil
}

var errRecord = errors.New("malformed member record")

// decodeRecord parses b without checking the signature; body and sig alias b.
func decodeRecord(b []byte) (r record, body, sig []byte, err error) {
	if len(b) > maxRecordBytes || len(b) < 2 || b[0] != recordFormat || b[1]&^recordLeaving != 0 {
		return record{}, nil, nil, errRecord
	}
	d := recordReader{rest: b[2:], ok: true}
	r.Leaving = b[1]&recordLeaving != 0
	r.Name = string(d.short(maxNameBytes))
	ip, okIP := netip.AddrFromSlice(d.short(16))
	port := d.fixed(2)
	epoch, seq, base, binding := d.fixed(8), d.fixed(4), d.fixed(4), d.fixed(16)
	r.Zone = string(d.short(maxZoneBytes))
	r.Version = string(d.short(maxVersionBytes))
	body = b[:len(b)-len(d.rest)]
	sig = d.short(maxSignatureBytes)
	if !d.ok || len(d.rest) != 0 || !okIP || ip.Is4In6() || !validName(r.Name) {
		return record{}, nil, nil, errRecord
	}
	r.Addr = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(port))
	r.Epoch = binary.BigEndian.Uint64(epoch)
	r.Seq = binary.BigEndian.Uint32(seq)
	r.Base = binary.BigEndian.Uint32(base)
	r.Binding = HostID(binding)
	return r, body, sig, nil
}

// recordReader takes fields off the front; after the first that does not fit, ok is false.
type recordReader struct {
	rest []byte
	ok   bool
}

func (d *recordReader) fixed(n int) []byte {
	if len(d.rest) < n {
		d.ok, d.rest = false, nil
		return make([]byte, n)
	}
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out
}

func (d *recordReader) short(limit int) []byte {
	n := int(d.fixed(1)[0])
	if n > limit {
		d.ok = false
	}
	if !d.ok {
		return nil
	}
	return d.fixed(n)
}

func appendShort(b, field []byte) []byte {
	return append(append(b, byte(len(field))), field...)
}

// validName reports whether s can be a node's name.
func validName(s string) bool {
	if s == "" || len(s) > maxNameBytes {
		return false
	}
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}
