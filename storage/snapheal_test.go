package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
)

// chunkFiles are the chunks of a manifest, by path, those that an older snapshot shares left out.
func chunkFiles(t *testing.T, s *Snapshots, manifest []byte, without ...[]byte) []string {
	t.Helper()
	shared := map[hash]bool{}
	for _, other := range without {
		m, err := decodeManifest(other)
		mustNil(t, err)
		for _, ref := range m.chunks {
			shared[ref.name] = true
		}
	}
	m, err := decodeManifest(manifest)
	mustNil(t, err)
	var out []string
	for _, ref := range m.chunks {
		if !shared[ref.name] {
			out = append(out, s.chunkPath(ref))
		}
	}
	return out
}

// snapshotDamages are the rows of the damage matrix that are about snapshots: what is done to a file.
var snapshotDamages = map[string]func(t *testing.T, fsys *Mem, path string){
	"one byte flipped": func(_ *testing.T, fsys *Mem, path string) { fsys.Flip(path, 10, 4) },
	"zeroed in the middle": func(t *testing.T, fsys *Mem, path string) {
		rewriteFile(t, fsys, path, func(b []byte) []byte { clear(b[len(b)/3 : len(b)/2]); return b })
	},
	"zeroed to the end": func(t *testing.T, fsys *Mem, path string) {
		rewriteFile(t, fsys, path, func(b []byte) []byte { clear(b[len(b)/3:]); return b })
	},
	"garbage tail": func(t *testing.T, fsys *Mem, path string) {
		rewriteFile(t, fsys, path, func(b []byte) []byte { return append(b, "garbage"...) })
	},
	"cut off": func(t *testing.T, fsys *Mem, path string) {
		rewriteFile(t, fsys, path, func(b []byte) []byte { return b[:len(b)/2] })
	},
	"lost": func(t *testing.T, fsys *Mem, path string) { mustNil(t, fsys.Remove(path)) },
}

func rewriteFile(t *testing.T, fsys FS, path string, edit func([]byte) []byte) {
	t.Helper()
	data, err := ReadFile(fsys, path, 1<<20)
	mustNil(t, err)
	mustNil(t, WriteFileAtomic(fsys, path, edit(data), filePerm))
}

// TestMendMatrix: each damage to each file of the snapshots is found by a scrub and put right by Mend, from memory or
// from a peer by hash, and the evidence is kept. The scrub before the damage, which finds nothing, is the control.
func TestMendMatrix(t *testing.T) {
	for name, damage := range snapshotDamages {
		t.Run(name, func(t *testing.T) {
			fsys, peer := NewMem(), openTestSnapshots(t, NewMem())
			s := openTestSnapshots(t, fsys)
			older, newest := saveBody(t, s, 3), saveBody(t, s, 7)
			saveBody(t, peer, 3)
			saveBody(t, peer, 7)
			files := append(chunkFiles(t, s, newest), s.manifestPath(3), s.manifestPath(7))
			files = append(files, chunkFiles(t, s, older, newest)...)
			for _, path := range files {
				if n := scrubProblems(t, fsys, s); n != 0 {
					t.Fatalf("control: %d problems", n)
				}
				damage(t, fsys, path)
				if n := scrubProblems(t, fsys, s); n == 0 {
					t.Errorf("%s: the scrub found nothing", path)
				}
				got, err := s.Mend(t.Context(), func(_ context.Context, name [32]byte) ([]byte, error) { return peer.Chunk(name) })
				if err != nil || len(got.Damaged) != 1 || got.Damaged[0] != path || got.Healed != 1 || got.Lost || len(got.Dropped) > 0 {
					t.Errorf("%s: %+v, %v", path, got, err)
				}
				if _, err := ReadFile(fsys, filepath.Join(filepath.Dir(path), badPrefix+filepath.Base(path)), 1<<20); err != nil && name != "lost" {
					t.Errorf("%s: the evidence is gone: %v", path, err)
				}
			}
			bad, err := listPrefix(fsys, s.chunkDir(), badPrefix)
			if err != nil || len(bad) > maxBadFiles {
				t.Errorf("%d files kept aside, %v", len(bad), err)
			}
			wantLatest(t, s, 7)
			wantLatest(t, openTestSnapshots(t, fsys.Crash(LoseUnsynced, 1)), 7)
		})
	}
}

func scrubProblems(t *testing.T, fsys FS, s *Snapshots) int {
	t.Helper()
	report, err := Scrub(t.Context(), ScrubOptions{FS: fsys, Dir: dataDir, ClusterID: traceCluster, Snapshots: s})
	mustNil(t, err)
	return report.Errors
}

// TestMendWithoutPeers: nobody has the chunk. The newest is reported as lost and stays until the state is saved again, at
// the same index or later; an older one is given up.
func TestMendWithoutPeers(t *testing.T) {
	fsys := NewMem()
	s := openTestSnapshots(t, fsys)
	older, newest := saveBody(t, s, 3), saveBody(t, s, 7)
	fsys.Flip(chunkFiles(t, s, newest, older)[0], 1, 1)
	got, err := s.Mend(t.Context(), nil)
	if err != nil || !got.Lost || len(got.Dropped) != 0 || got.Healed != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, _, ok := s.Latest(); !ok {
		t.Fatal("the damaged snapshot was given up")
	}
	saveBody(t, s, 7) // from the state in memory
	if n := scrubProblems(t, fsys, s); n != 0 {
		t.Errorf("%d problems after it was saved again", n)
	}
	fsys.Flip(chunkFiles(t, s, older, newest)[0], 1, 1)
	liar := func(context.Context, [32]byte) ([]byte, error) { return []byte("not that chunk"), nil }
	got, err = s.Mend(t.Context(), liar)
	if err != nil || got.Lost || len(got.Dropped) != 1 || got.Dropped[0] != 3 {
		t.Errorf("an older one: %+v, %v", got, err)
	}
	if n := scrubProblems(t, fsys, s); n != 0 {
		t.Errorf("%d problems after it was given up", n)
	}
	wantLatest(t, openTestSnapshots(t, fsys.Crash(LoseUnsynced, 1)), 7)
}

// TestReadsSignalDamage: a chunk that is served to a peer, or read back, and is not whole asks for Mend.
func TestReadsSignalDamage(t *testing.T) {
	for name, read := range map[string]func(s *Snapshots, manifest []byte){
		"serving": func(s *Snapshots, manifest []byte) {
			m, _ := decodeManifest(manifest)
			_, _ = s.Chunk(m.chunks[0].name)
		},
		"reading": func(s *Snapshots, manifest []byte) { _, _ = readBody(s, manifest) },
	} {
		fsys := NewMem()
		s := openTestSnapshots(t, fsys)
		manifest := saveBody(t, s, 3)
		signalled := func() bool {
			select {
			case <-s.Damaged():
				return true
			default:
				return false
			}
		}
		if read(s, manifest); signalled() {
			t.Errorf("control: %s a whole chunk asks for it", name)
		}
		fsys.Flip(chunkFiles(t, s, manifest)[0], 1, 1)
		if read(s, manifest); !signalled() {
			t.Errorf("%s a damaged chunk does not", name)
		}
	}
}

// TestMendFailsStop: a failed sync while mending is fatal, and every other failure leaves snapshots that open.
func TestMendFailsStop(t *testing.T) {
	for fault := FaultCrash; fault <= FaultIO; fault++ {
		for at := 0; ; at++ {
			fsys, peer := NewMem(), openTestSnapshots(t, NewMem())
			s := openTestSnapshots(t, fsys)
			older, newest := saveBody(t, s, 3), saveBody(t, s, 7)
			saveBody(t, peer, 7)
			fsys.Flip(chunkFiles(t, s, newest, older)[0], 1, 1)
			began := len(fsys.Ops())
			fsys.Inject(began+at, fault)
			_, err := s.Mend(t.Context(), func(_ context.Context, name [32]byte) ([]byte, error) { return peer.Chunk(name) })
			if len(fsys.Ops()) <= began+at {
				break
			}
			op := fsys.Ops()[began+at]
			var fatal *FatalError
			if isSync := strings.HasPrefix(op.Kind, "sync"); isSync && fault == FaultIO && !errors.As(err, &fatal) {
				t.Errorf("EIO on %v: %v, want *FatalError", op, err)
			}
			next := fsys.Crash(KeepUnsynced, uint64(at))
			again, err := OpenSnapshots(snapOptions(next))
			if err != nil {
				t.Fatalf("fault %d at %v: %v", fault, op, err)
			}
			if _, err := again.Mend(t.Context(), func(_ context.Context, name [32]byte) ([]byte, error) { return peer.Chunk(name) }); err != nil {
				t.Errorf("fault %d at %v: mend again: %v", fault, op, err)
			}
		}
	}
}

// TestFetchGoesOn: a fetch that is cut after every chunk, by an error and a restart of the process, and with a snapshot of
// our own saved in between, never asks for a chunk twice. The control forgets what was begun, and does.
func TestFetchGoesOn(t *testing.T) {
	for _, forget := range []bool{false, true} {
		peer := openTestSnapshots(t, NewMem())
		content := bytes.Repeat([]byte(body(9)), 6)
		manifest, err := peer.Save(testMeta(50, [32]byte{9}), func(w io.Writer) error { _, err := w.Write(content); return err })
		mustNil(t, err)
		fsys, asked, cut := NewMem(), map[[32]byte]int{}, errors.New("cut")
		for tries := 0; ; tries++ {
			if tries > 40 {
				if !forget {
					t.Fatal("it never ends")
				}
				break
			}
			s := openTestSnapshots(t, fsys)
			left := 1
			err := s.Install(t.Context(), manifest, func(_ context.Context, name [32]byte) ([]byte, error) {
				if left--; left < 0 {
					return nil, cut
				}
				asked[name]++
				return peer.Chunk(name)
			})
			if err == nil {
				break
			}
			if !errors.Is(err, cut) {
				t.Fatal(err)
			}
			if forget {
				s.setPartial(nil)
			}
			saveBody(t, s, uint64(tries+1))    // collects what nobody needs
			fsys = fsys.Crash(KeepUnsynced, 0) // what a killed process leaves
		}
		repeated := 0
		for _, n := range asked {
			repeated += n - 1
		}
		m, err := decodeManifest(manifest)
		mustNil(t, err)
		if !forget && (repeated != 0 || len(m.chunks) < 10) {
			t.Errorf("%d of %d chunks were fetched again", repeated, len(m.chunks))
		}
		if forget && repeated == 0 {
			t.Error("control: nothing was fetched again")
		}
		if !forget {
			s := openTestSnapshots(t, fsys)
			if _, got, ok := s.Latest(); !ok || !bytes.Equal(got, manifest) {
				t.Error("it is not the newest")
			}
			if names, _ := fsys.List(s.dir); strings.Contains(fmt.Sprint(names), partialName) {
				t.Errorf("the note of the fetch is left: %v", names)
			}
		}
	}
}
