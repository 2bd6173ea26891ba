package storage

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

const (
	// MaxManifestBytes bounds a manifest: 6 GiB of state in chunks of 1 MiB.
	MaxManifestBytes = 256 << 10

	// maxConfStateBytes bounds the part of it that raft owns.
	maxConfStateBytes = 16 << 10

	manifestFixedBytes = 8 + 4 + 4 + 16 + 8 + 8 + 32 + 32 + 8 + 4 + 4
	manifestChunkBytes = 32 + 4 + 4

	// maxChunks is what fits beside the rest.
	maxChunks = (MaxManifestBytes - manifestFixedBytes - maxConfStateBytes - 32) / manifestChunkBytes
)

var manifestMagic = []byte("PARLEYSN")

// SnapshotMeta is what raft knows about a snapshot. Chain is the entry chain at Index, which the log
// continues from.
type SnapshotMeta struct {
	Index, Term uint64
	Chain       [32]byte
	ConfState   *raftpb.ConfState
	Size        uint64 // bytes of the content, where it was read from a manifest
}

// manifest lists the chunks that make a snapshot. It is small, travels inside raft messages, and is
// all that is needed to fetch and verify the rest.
type manifest struct {
	meta    SnapshotMeta
	cluster [16]byte
	whole   hash // of the uncompressed content
	size    uint64
	chunks  []chunkRef
}

// chunkRef names a chunk by the SHA-256 of its stored bytes.
type chunkRef struct {
	name   hash
	stored uint32 // compressed bytes
	raw    uint32
}

// ParseManifest checks a manifest's form and checksum and returns what it is about. It does not look
// at chunks. Errors wrap ErrManifest.
func ParseManifest(data []byte) (SnapshotMeta, error) {
	m, err := decodeManifest(data)
	return m.meta, err
}

func (m *manifest) encode() ([]byte, error) {
	conf, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.meta.ConfState)
	if err != nil {
		return nil, fmt.Errorf("encode snapshot configuration: %w", err)
	}
	b := order.AppendUint32(bytes.Clone(manifestMagic), formatVersion)
	b = order.AppendUint32(b, 0)
	b = append(b, m.cluster[:]...)
	b = order.AppendUint64(b, m.meta.Index)
	b = order.AppendUint64(b, m.meta.Term)
	b = append(b, m.meta.Chain[:]...)
	b = append(b, m.whole[:]...)
	b = order.AppendUint64(b, m.size)
	b = order.AppendUint32(b, uint32(len(conf)))
	b = order.AppendUint32(b, uint32(len(m.chunks)))
	b = append(b, conf...)
	for _, c := range m.chunks {
		b = append(b, c.name[:]...)
		b = order.AppendUint32(b, c.stored)
		b = order.AppendUint32(b, c.raw)
	}
	sum := sha256.Sum256(b)
	b = append(b, sum[:]...)
	if len(b) > MaxManifestBytes || len(conf) > maxConfStateBytes {
		return nil, fmt.Errorf("snapshot manifest of %d bytes with %d of configuration, limits %d and %d", len(b), len(conf), MaxManifestBytes, maxConfStateBytes)
	}
	return b, nil
}

func decodeManifest(data []byte) (manifest, error) {
	if len(data) < manifestFixedBytes+sha256.Size || len(data) > MaxManifestBytes || !bytes.Equal(data[:8], manifestMagic) {
		return manifest{}, fmt.Errorf("%w: %d bytes that are no manifest", ErrManifest, len(data))
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if sha256.Sum256(body) != hash(sum) {
		return manifest{}, fmt.Errorf("%w: wrong checksum", ErrManifest)
	}
	c := cursor{body[8:]}
	if version := c.u32(); version != formatVersion {
		return manifest{}, fmt.Errorf("%w: %w (%d, not %d)", ErrManifest, errFormat, version, formatVersion)
	}
	c.u32()
	m := manifest{cluster: [16]byte(c.take(16))}
	m.meta.Index, m.meta.Term, m.meta.Chain = c.u64(), c.u64(), c.hash()
	m.whole, m.size = c.hash(), c.u64()
	m.meta.Size = m.size
	conf, chunks := uint64(c.u32()), uint64(c.u32())
	if conf > maxConfStateBytes || uint64(len(c.rest)) != conf+chunks*manifestChunkBytes {
		return manifest{}, fmt.Errorf("%w: %d bytes for %d of configuration and %d chunks", ErrManifest, len(c.rest), conf, chunks)
	}
	m.meta.ConfState = &raftpb.ConfState{}
	if err := proto.Unmarshal(c.take(int(conf)), m.meta.ConfState); err != nil {
		return manifest{}, fmt.Errorf("%w: configuration: %w", ErrManifest, err)
	}
	return m, m.takeChunks(&c)
}

// takeChunks reads the chunk list and checks that it adds up.
func (m *manifest) takeChunks(c *cursor) error {
	total := uint64(0)
	for len(c.rest) > 0 {
		ref := chunkRef{name: c.hash(), stored: c.u32(), raw: c.u32()}
		if ref.raw == 0 || ref.raw > maxChunkBytes || ref.stored == 0 || ref.stored > maxStoredBytes {
			return fmt.Errorf("%w: chunk of %d bytes, %d stored", ErrManifest, ref.raw, ref.stored)
		}
		total += uint64(ref.raw)
		m.chunks = append(m.chunks, ref)
	}
	if total != m.size {
		return fmt.Errorf("%w: chunks hold %d bytes of %d", ErrManifest, total, m.size)
	}
	return nil
}
