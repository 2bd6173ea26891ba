package agent

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// FuzzReadBackup: a file with any manifest and any content behind right checksums is refused, or is the state that its
// manifest says, all of whose rows can be read.
func FuzzReadBackup(f *testing.F) {
	v := state.Genesis(state.GenesisOptions{
		ClusterID: "abababababababababababababababab", TrustDomain: "x.test", Bundle: state.Bundle{Roots: [][]byte{{1}}}, Sealed: []byte("s"),
		Node: state.Node{Name: "a1", HostKey: []byte("host"), SealKey: make([]byte, state.SealKeyBytes)},
	}).View()
	manifest, err := json.Marshal(manifestOf(v, "a1", "v1", time.Unix(1, 0)))
	if err != nil {
		f.Fatal(err)
	}
	var content bytes.Buffer
	if err := v.WriteSnapshot(&content); err != nil {
		f.Fatal(err)
	}
	f.Add(manifest, content.Bytes())
	f.Add([]byte(`{"digest":"00"}`), content.Bytes())
	f.Add(manifest, content.Bytes()[:content.Len()-1])
	f.Add([]byte(`[`), []byte(nil))
	f.Fuzz(func(t *testing.T, manifest, content []byte) {
		var file bytes.Buffer
		w, err := storage.NewBackupWriter(&file, manifest)
		if err != nil {
			return
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		report, got, err := readBackup(&file)
		if (err == nil) != report.OK || (err == nil) != (got != nil) {
			t.Fatalf("%+v with %v", report, err)
		}
		if err != nil {
			return
		}
		if report.Digest != report.Manifest.Digest || report.Digest != report.Expected {
			t.Fatalf("%+v", report)
		}
		got.Nodes()
		got.Core()
		serviceNames(got)
		got.WithoutTokens()
	})
}
