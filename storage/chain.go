package storage

import (
	"crypto/sha256"
	stdhash "hash"

	"go.etcd.io/raft/v3/raftpb"
)

// chainer computes the entry chain E_i = SHA-256(E_{i-1}, term, index, type, data), which is equal on
// all members whose logs are equal up to i. It is kept to save allocations; one goroutine at a time.
type chainer struct {
	sha   stdhash.Hash
	fixed [32 + 8 + 8 + 4]byte
	out   hash
}

func newChainer() *chainer { return &chainer{sha: sha256.New()} }

func (c *chainer) next(prev hash, entry *raftpb.Entry) hash {
	b := append(c.fixed[:0], prev[:]...)
	b = order.AppendUint64(b, entry.GetTerm())
	b = order.AppendUint64(b, entry.GetIndex())
	b = order.AppendUint32(b, uint32(entry.GetType()))
	c.sha.Reset()
	c.sha.Write(b)
	c.sha.Write(entry.GetData())
	c.sha.Sum(c.out[:0])
	return c.out
}

// link is what the log remembers of each entry.
type link struct {
	chain hash
	term  uint64
}

// links holds the links of the entries from base on. base itself is the entry before the first: it
// has a link and no content.
type links struct {
	base uint64
	list []link // list[i] is of entry base+i; never empty
}

func newLinks(base, term uint64, chain hash) links {
	return links{base: base, list: []link{{chain, term}}}
}

func (l *links) last() uint64 { return l.base + uint64(len(l.list)) - 1 }

func (l *links) at(index uint64) (link, bool) {
	if index < l.base || index > l.last() {
		return link{}, false
	}
	return l.list[index-l.base], true
}

// replace puts added after prevIndex, dropping all that followed it.
func (l *links) replace(prevIndex uint64, added []link) {
	l.list = append(l.list[:prevIndex-l.base+1], added...)
}

// trim forgets everything below index. It copies, so that the old memory goes.
func (l *links) trim(index uint64) {
	if index > l.base {
		l.list = append([]link(nil), l.list[index-l.base:]...)
		l.base = index
	}
}
