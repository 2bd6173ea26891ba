package agent

import "testing"

// TestSnapshotsOnASmallDisk: what is kept of the log, up to four times the distance between two snapshots, leaves room on a small
// file system; on a usual one, and where its size is not known, the distance is the usual.
func TestSnapshotsOnASmallDisk(t *testing.T) {
	for _, test := range []struct {
		total uint64
		known bool
		want  int
	}{
		{1 << 40, true, 0},
		{2 << 30, true, 0},
		{1 << 30, true, 64 << 20},
		{512 << 20, true, 32 << 20},
		{100 << 20, true, minSnapshotBytes},
		{0, false, 0},
	} {
		if got := snapshotBytes(test.total, test.known); got != test.want {
			t.Errorf("%d bytes, known %v: a snapshot each %d bytes, want %d", test.total, test.known, got, test.want)
		}
	}
}
