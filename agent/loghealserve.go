package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodEntries = "core.entries"
	methodGone    = "core.gone"

	// maxEntriesAnswer bounds the entries in one answer; one entry always fits.
	maxEntriesAnswer = 1 << 20

	gapBytes = 8 + 8 + 32

	// damagedDir keeps what is left of a log that was given up with its Raft id, the newest only.
	damagedDir = "damaged"
	// maxDamagedBytes bounds it: two segments of the default size.
	maxDamagedBytes = 2 * storage.DefaultSegmentBytes
)

func encodeGap(gap storage.Gap) []byte {
	b := binary.BigEndian.AppendUint64(nil, gap.After)
	b = binary.BigEndian.AppendUint64(b, gap.Last)
	return append(b, gap.Chain[:]...)
}

func decodeGap(b []byte) (gap storage.Gap, ok bool) {
	if len(b) != gapBytes {
		return gap, false
	}
	gap = storage.Gap{After: binary.BigEndian.Uint64(b), Last: binary.BigEndian.Uint64(b[8:]), Chain: [32]byte(b[16:])}
	return gap, gap.After < gap.Last
}

// serveEntries gives a core member entries of the log, if ours is the one that it asks for. One peer at a time is served,
// so that a repair does not take the loop away from the writes.
func (a *Agent) serveEntries(ctx context.Context, peer transport.Peer, body []byte) ([]byte, error) {
	n := a.core.running()
	if n == nil {
		return nil, &transport.Error{Code: api.CodeUnavailable, Message: "this agent runs no Raft id"}
	}
	gap, ok := decodeGap(body)
	if !ok {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "entries are asked for by two indexes and a chain, 48 bytes"}
	}
	if !a.core.entryTurns.take(peer.Node) {
		return nil, &transport.Error{Code: api.CodeBusy, Message: "another core member is being served, ask again"}
	}
	chain, known := n.store.log.Chain(gap.Last)
	if !known || chain != gap.Chain {
		return nil, &transport.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no such entry %d here", gap.Last)}
	}
	prevTerm, entries, err := n.node.Entries(ctx, gap.After, gap.Last, maxEntriesAnswer)
	if err != nil {
		return nil, &transport.Error{Code: api.CodeUnavailable, Message: err.Error()}
	}
	prev := storage.Point{Index: gap.Last - uint64(len(entries)), Term: prevTerm}
	if prev.Chain, known = n.store.log.Chain(prev.Index); len(entries) == 0 || !known {
		return nil, &transport.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("entry %d is compacted here", gap.Last)}
	}
	return storage.AppendEntries(nil, prev, entries), nil
}

// serveGone retires the Raft id of a core member that asks for it: its log is lost, and the certificate says that it is the
// id's own. The planner replaces an id that is retired and still votes at once, by the same agent's new one. Refused
// unless this agent leads and mayGo agrees.
func (a *Agent) serveGone(ctx context.Context, peer transport.Peer, body []byte) ([]byte, error) {
	var id uint64
	if _, err := fmt.Sscanf(string(body), "%x", &id); err != nil {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "want a Raft id in hex"}
	}
	n := a.core.member()
	if n == nil {
		return nil, &transport.Error{Code: api.CodeUnavailable, Message: "this agent is outside the core"}
	}
	a.core.goneTurn <- struct{}{} // two members must not be let go at the same time
	defer func() { <-a.core.goneTurn }()
	v := a.hub.View()
	m, listed := v.CoreByID(id)
	switch {
	case !listed || m.Node != peer.Node:
		return nil, &transport.Error{Code: api.CodeDenied, Message: fmt.Sprintf("Raft id %x is not %s's", id, peer.Node)}
	case m.Retired:
		return nil, nil
	}
	retired := func(id uint64) bool { return v.RaftIDRetired(id) }
	if err := consensus.MayGo(n.Status(), id, retired); err != nil {
		return nil, &transport.Error{Code: api.CodeUnavailable, Message: err.Error()}
	}
	if _, err := a.service.Execute(ctx, api.Internal(a.ids.Node), state.CoreRetire{RaftID: id}); err != nil {
		return nil, toWire(err)
	}
	a.log.Warn("a core member lost its log and gives its Raft id up", zap.String("peer", peer.Node), zap.Uint64("raft_id", id))
	return nil, nil
}

// keepDamaged moves the newest files of a log that is given up to a directory of their own, in place of older ones, as
// many as maxDamagedBytes allow. The rest is for dropLog.
func (d *dataDir) keepDamaged() error {
	if err := os.RemoveAll(d.join(damagedDir)); err != nil {
		return err
	}
	if err := os.MkdirAll(d.join(damagedDir), 0o700); err != nil {
		return err
	}
	names, err := os.ReadDir(d.join(walDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	paths := []string{d.join("anchor")}
	for _, entry := range slices.Backward(names) { // segments are numbered
		if strings.HasSuffix(entry.Name(), ".wal") {
			paths = append(paths, d.join(walDir, entry.Name()))
		}
	}
	room := int64(maxDamagedBytes)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || info.Size() > room {
			continue
		}
		room -= info.Size()
		if err := os.Rename(path, d.join(damagedDir, filepath.Base(path))); err != nil {
			return err
		}
	}
	return nil
}
