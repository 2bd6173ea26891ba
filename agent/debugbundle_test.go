package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/storage"
)

// unpacked is what is in a bundle, by name.
func unpacked(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// secretsOf are the private keys in a data directory, as PEM, DER, hex and base64, and the secrets that are no PEM.
func secretsOf(t *testing.T, dir string) (secrets map[string][]byte) {
	t.Helper()
	secrets = make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the agent runs and has taken a temporary file away
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			if strings.Contains(block.Type, "PRIVATE") {
				secrets[name+" PEM"] = pem.EncodeToMemory(block)[78:90]
				secrets[name+" DER"] = block.Bytes[36:48]
				secrets[name+" hex"] = []byte(hex.EncodeToString(block.Bytes[36:48]))
			}
		}
		if strings.Contains(path, "claim") {
			secrets[name] = b[:min(len(b), 16)]
			secrets[name+" base64"] = []byte(base64.StdEncoding.EncodeToString(b)[:16])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return secrets
}

// TestBundleHoldsNoSecret: what was written, tokens and private keys are nowhere in a bundle, and what is in it replays. Control: a planted value is found in the log on the disk, where it has to be.
func TestBundleHoldsNoSecret(t *testing.T) {
	const value = "correct-horse-battery-staple"
	agents := startClusterWith(t, func(c *config.Config) { c.Debug.FlightSeconds = 1 }, 0)
	if _, err := agents[0].Put(t.Context(), "planted", []byte(value), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := agents[0].CreateToken(t.Context(), client.TokenSpec{Uses: 1, Role: "local"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range agents {
		var b bytes.Buffer
		if err := r.SaveBundle(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		secrets := secretsOf(t, r.agent.dir.path)
		if len(secrets) < 5 {
			t.Errorf("%d secrets of %s were found to look for", len(secrets), r.name)
		}
		secrets["value"], secrets["token"] = []byte(value), []byte(token.Token)
		files := unpacked(t, b.Bytes())
		for _, name := range []string{BundleManifest, BundleRecording, "goroutines.txt", "status.json", "timeline.json", "metrics.txt", "config.toml"} {
			if len(files[name]) == 0 {
				t.Errorf("%s: there is no %s", r.name, name)
			}
		}
		for name, content := range files {
			for what, secret := range secrets {
				if bytes.Contains(content, secret) {
					t.Errorf("%s: %s has the %s", r.name, name, what)
				}
			}
		}
		report, err := Replay([]NamedRecording{{BundleRecording, files[BundleRecording]}}, false)
		if err != nil || report.Problem != "" || report.Events == 0 {
			t.Errorf("%s: %+v, %v", r.name, report, err)
		}
	}
	found := false
	_ = filepath.WalkDir(filepath.Join(agents[0].agent.dir.path, walDir), func(path string, _ fs.DirEntry, _ error) error {
		b, _ := os.ReadFile(path)
		found = found || bytes.Contains(b, []byte(value))
		return nil
	})
	if !found {
		t.Error("control: the planted value is not in the log")
	}
}

// TestRecordingsAreBounded: one of a reason, a few in all, and room again once they were forgotten.
func TestRecordingsAreBounded(t *testing.T) {
	r := &recordings{dir: &dataDir{path: t.TempDir(), fs: storage.OS()}, queue: make(chan recordingFile, recordingsQueue), log: zap.NewNop()}
	for i := range maxRecordings {
		if name, err := r.keep(recordingFile{fmt.Sprint("invariant/../", i), []byte("x")}); err != nil || name == "" || strings.Contains(name, "/") {
			t.Fatalf("%q, %v", name, err)
		}
	}
	if name, err := r.keep(recordingFile{"invariant/../3", []byte("y")}); err != nil || name != "" {
		t.Errorf("another of the same reason: %q, %v", name, err)
	}
	if _, err := r.keep(recordingFile{"new", []byte("y")}); err == nil || !strings.Contains(err.Error(), "parley debug forget") {
		t.Errorf("one too many: %v", err)
	}
	if info, err := os.Stat(r.dir.join(recordingsDir, r.list()[0].Name)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if list, err := r.forget(); err != nil || len(list) != maxRecordings || r.kept.Load() != 0 || len(r.list()) != 0 {
		t.Errorf("%d, %v, %d kept", len(list), err, r.kept.Load())
	}
	if _, err := r.keep(recordingFile{"large", make([]byte, maxRecordingBytes+1)}); err == nil {
		t.Error("one that is too large is kept")
	}
	for range recordingsQueue + 1 {
		r.save("waits", nil)
	}
	if len(r.queue) != recordingsQueue {
		t.Errorf("%d wait", len(r.queue))
	}
}

// TestBundleIsBounded: a part that does not end is cut, and one that fails is named with its reason.
func TestBundleIsBounded(t *testing.T) {
	b := &bundle{files: make(map[string][]byte), total: maxBundle - 10}
	b.add("long", func(w io.Writer) error { _, err := w.Write(make([]byte, 100)); return err })
	b.add("broken", func(io.Writer) error { return errors.New("why") })
	f := b.manifest.Files
	if len(f) != 1 || f[0].Bytes != 10 || !f[0].Cut || len(b.manifest.Missing) != 1 || b.manifest.Missing[0].Reason != "why" {
		t.Errorf("%+v", b.manifest)
	}
}
