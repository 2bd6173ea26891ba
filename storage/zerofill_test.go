package storage

import (
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestSegmentsAreMadeBesideTheWrites: while the background work runs between appends, no append makes a file or fills one
// with zeros: rolling takes a spare that is ready, and writes its two headers. Without it, the control, appends do.
func TestSegmentsAreMadeBesideTheWrites(t *testing.T) {
	for _, background := range []bool{true, false} {
		fsys := NewMem()
		options := logOptions(fsys)
		options.SegmentBytes = 64 << 10
		log, _, err := OpenLog(options)
		mustNil(t, err)
		made, rolled := 0, log.active.number
		for index := uint64(1); index < 60; index++ {
			if background {
				mustNil(t, log.Background(t.Context()))
			}
			before := len(fsys.Ops())
			mustNil(t, log.Append([]*raftpb.Entry{newEntry(1, index, make([]byte, 9000))}, nil, true))
			for _, op := range fsys.Ops()[before:] {
				if op.Kind == "create" && strings.Contains(op.Path, sparePrefix) {
					made++
				}
			}
		}
		if rolled = log.active.number - rolled; rolled < 5 {
			t.Fatalf("%d segments were begun", rolled)
		}
		if background != (made == 0) {
			t.Errorf("background %v: appends made %d of %d segments", background, made, rolled)
		}
		mustNil(t, log.Close())
	}
}
