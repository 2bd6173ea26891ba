package agent

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// fuzzDir is a data directory with one file of any content.
func fuzzDir(t *testing.T, name string, content []byte) *dataDir {
	t.Helper()
	d, err := openDataDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(d.join(name)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.join(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// FuzzLedger: a ledger of any content keeps no agent from starting. The start is counted, the lines that were readable
// stay, and it does not grow beyond its bound.
func FuzzLedger(f *testing.F) {
	now := ledgerLine{Boot: "b", MS: 5, Wall: time.Unix(9, 0).UTC()}
	start, stop := now, now
	start.Event, stop.Event = ledgerStart, ledgerStop
	f.Add(encodeLedger([]ledgerLine{start, stop, start}))
	f.Add(encodeLedger([]ledgerLine{start, stop})[:100])
	f.Add(bytes.Repeat(encodeLedger([]ledgerLine{start}), 2*maxLedgerStarts))
	f.Add([]byte("\n\n{}\nnull\n{\"event\":\"start\",\"wall\":1}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		d := fuzzDir(t, ledgerFile, content)
		before, _, err := d.readLedger()
		if err != nil {
			t.Fatal(err)
		}
		l, err := d.openLedger(func() ledgerLine { return now }, false)
		if err != nil {
			t.Fatal(err)
		}
		if n := l.starts(); n < 1 || l.crashes() > n || l.cleanRun() > len(l.lines) {
			t.Fatalf("%d starts, %d of them crashes, %d clean in a row", n, l.crashes(), l.cleanRun())
		}
		after, torn, err := d.readLedger()
		if err != nil || torn || len(after) == 0 || !reflect.DeepEqual(after, l.lines) {
			t.Fatalf("torn %v, %v: %d lines are read of %d", torn, err, len(after), len(l.lines))
		}
		if len(before)+1 <= 2*maxLedgerStarts && len(after) != len(before)+1 || len(after) > 2*maxLedgerStarts {
			t.Fatalf("%d lines before, %d after", len(before), len(after))
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		if again, err := d.openLedger(func() ledgerLine { return now }, false); err != nil || !again.clean() {
			t.Fatalf("the next start: clean %v, %v", again.clean(), err)
		}
	})
}

// FuzzPublicCopy: a copy of the public state of any content is what its digest says, or is not used.
func FuzzPublicCopy(f *testing.F) {
	v := state.Genesis(state.GenesisOptions{
		ClusterID: "abababababababababababababababab", TrustDomain: "x.test", Bundle: state.Bundle{Roots: [][]byte{{1}}}, Sealed: []byte("s"),
		Node: state.Node{Name: "a1", HostKey: []byte("host"), SealKey: make([]byte, state.SealKeyBytes)},
	}).View()
	classes := state.NewClassSet(publicOnly...)
	digest := v.DigestOf(classes)
	b := bytes.NewBuffer(append(digest[:], state.EncodePosition(v.Position())...))
	if err := v.WriteSnapshotOf(classes, b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:len(b.Bytes())-1])
	f.Add(b.Bytes()[:20])
	f.Fuzz(func(t *testing.T, content []byte) {
		got := loadCopy(fuzzDir(t, filepath.Join(viewDir, lkgFile), content), zap.NewNop())
		if got.Revision() == 0 {
			return
		}
		if d := got.DigestOf(classes); !bytes.HasPrefix(content, d[:]) {
			t.Fatalf("digest %x, the copy says %x", d, content[:min(len(content), 32)])
		}
		got.Nodes()
		got.Core()
	})
}

// FuzzDataDir: the small files of a data directory, of any content, are read, refused, or taken for none.
func FuzzDataDir(f *testing.F) {
	f.Add([]byte("cluster_id = \"abababababababababababababababab\"\ntrust_domain = \"x.test\"\nnode = \"a1\"\n"))
	f.Add([]byte(`[{"node":"a1","addr":"10.0.0.1:8310"}]`))
	f.Add([]byte("18446744073709551615\n"))
	f.Add([]byte(`{"node":"a1","cluster_id":"c","last_term":1,"last_index":2}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		if ids, err := fuzzDir(t, clusterFile, content).readCluster(); err == nil && ids.check() != nil {
			t.Fatalf("%+v is taken", ids)
		}
		if _, err := fuzzDir(t, filepath.Join(viewDir, knownFile), content).readKnown(); err != nil {
			t.Fatalf("a hint keeps the agent down: %v", err)
		}
		d := fuzzDir(t, incarnationFile, content)
		if n, err := d.readNumber(incarnationFile); err == nil {
			if next, err := d.nextIncarnation(); err != nil || next != n+1 {
				t.Fatalf("after %d: %d, %v", n, next, err)
			}
		}
		reports, err := readSurvivors([]string{fuzzDir(t, "report", content).join("report")})
		if err == nil && (len(reports) != 1 || reports[0].Node == "" || reports[0].LastIndex == 0) {
			t.Fatalf("%+v is taken for a report", reports)
		}
	})
}

// FuzzPeers: what core members ask of each other, and answer, is refused or encodes to the same bytes.
func FuzzPeers(f *testing.F) {
	f.Add(encodeGap(storage.Gap{After: 1, Last: 9, Chain: [32]byte{1}}))
	rows, _ := json.Marshal(bucketRows{Revision: 3, Rows: []rowMark{{Table: state.TableKV, Key: []byte("k"), Revision: 2, Hash: [32]byte{1}}}})
	f.Add(rows)
	f.Fuzz(func(t *testing.T, b []byte) {
		if gap, ok := decodeGap(b); ok && (!bytes.Equal(encodeGap(gap), b) || gap.After >= gap.Last) {
			t.Fatalf("gap %+v", gap)
		}
		var theirs bucketRows
		if json.Unmarshal(b, &theirs) != nil {
			return
		}
		marks := theirs.marks()
		for _, same := range []bool{true, false} {
			if n := len(state.DifferentRows(marks, nil, theirs.Revision, same)); n > len(marks) {
				t.Fatalf("%d of %d rows differ", n, len(marks))
			}
		}
	})
}
