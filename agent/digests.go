package agent

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"sync"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodDigest = "state.digest"

	digestRoom = 4096            // entries whose digests a core member remembers
	digestWait = 2 * time.Second // for an index that is not applied yet
)

// digestRing remembers the state's digest after each of the last entries, so that members which are never at the
// same index at the same moment can be compared at one that all have passed. The applier writes, anyone reads.
type digestRing struct {
	mu struct {
		sync.Mutex
		notes  [digestRoom]digestNote // by index modulo the size
		newest uint64
	}
}

type digestNote struct {
	index  uint64
	digest [32]byte
}

func (r *digestRing) note(index uint64, digest [32]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.notes[index%digestRoom] = digestNote{index: index, digest: digest}
	r.mu.newest = index
}

// at returns the digest after the entry, if it is still, or already, known.
func (r *digestRing) at(index uint64) (digest [32]byte, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.mu.notes[index%digestRoom]
	return n.digest, n.index == index && index != 0
}

func (r *digestRing) newest() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.newest
}

// digestAnswer is what a core member says about an index. Digest is empty when it has none of it: not applied in
// time, or so long ago that it is forgotten.
type digestAnswer struct {
	Applied uint64 `json:"applied"`
	Digest  string `json:"digest"`
}

// serveDigest tells any agent the digest after the entry of an index; 0 asks for the newest index alone. It
// waits a little for an index to come, and tells nothing about what the state holds.
func (a *Agent) serveDigest(ctx context.Context, _ transport.Peer, body []byte) ([]byte, error) {
	if len(body) != 8 {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "a digest is asked for by an index of 8 bytes"}
	}
	answer, err := a.ownDigest(ctx, binary.BigEndian.Uint64(body))
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}

func (a *Agent) ownDigest(ctx context.Context, index uint64) (digestAnswer, error) {
	n := a.core.node()
	if n == nil {
		return digestAnswer{}, &transport.Error{Code: api.CodeUnavailable, Message: "this agent is outside the core"}
	}
	if index != 0 {
		ctx, cancel := context.WithTimeout(ctx, digestWait)
		defer cancel()
		_ = n.WaitApplied(ctx, index) // late is an answer too
	}
	answer := digestAnswer{Applied: a.digests.newest()}
	if digest, ok := a.digests.at(index); ok {
		answer.Digest = hex.EncodeToString(digest[:])
	}
	return answer, nil
}

// askDigest asks one core member, this agent included.
func (a *Agent) askDigest(ctx context.Context, node string, index uint64) (answer digestAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, digestWait+time.Second)
	defer cancel()
	if node == a.ids.Node {
		return a.ownDigest(ctx, index)
	}
	raw, err := a.pool.Call(ctx, node, methodDigest, binary.BigEndian.AppendUint64(nil, index))
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(raw, &answer)
}
