package consensus

import (
	"encoding/binary"
	"fmt"
)

// envelope is a frame that goes by way of a hub:
//
//	origin 8 | final 8 | life of origin 8 | life of final 8 | number 8 | items of the frame | MAC 32     (big endian)
//
// The MAC is the origin's over all that is before it, with a key that only origin and final have (PeerOptions.Seal).
// Numbers count up from 1 for each final in a life of the origin.
type envelope struct {
	origin, final   uint64
	life, finalLife uint64
	seq             uint64
	raw             []byte // all of it
}

const (
	envelopeHeader = 5 * 8
	envelopeMAC    = 32
	// maxEnvelope is the largest frame that is relayed, on all sides: one entry of the largest size fits.
	maxEnvelope = maxBatchBytes + 64<<10
)

// append adds the envelope up to its MAC, with the items of body, to b.
func (e envelope) append(b, body []byte) []byte {
	for _, v := range []uint64{e.origin, e.final, e.life, e.finalLife, e.seq} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return append(b, body...)
}

// decodeEnvelope reads the header. raw is kept.
func decodeEnvelope(raw []byte) (envelope, error) {
	if len(raw) < envelopeHeader+envelopeMAC || len(raw) > maxEnvelope {
		return envelope{}, fmt.Errorf("envelope of %d bytes", len(raw))
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(raw[8*i:]) }
	return envelope{origin: at(0), final: at(1), life: at(2), finalLife: at(3), seq: at(4), raw: raw}, nil
}

// signed is what the MAC is over, mac the MAC, and body the items.
func (e envelope) signed() []byte { return e.raw[:len(e.raw)-envelopeMAC] }
func (e envelope) mac() []byte    { return e.raw[len(e.raw)-envelopeMAC:] }
func (e envelope) body() []byte   { return e.raw[envelopeHeader : len(e.raw)-envelopeMAC] }
