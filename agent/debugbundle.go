package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/state"
)

// BundleFormat is the version of debug bundles.
const BundleFormat = 1

// Names in a bundle.
const (
	BundleManifest  = "manifest.json"
	BundleRecording = "core.rec"
	bundleSaved     = "recordings/"
)

const (
	maxBundlePart  = 64 << 20  // of one file; what is longer is cut, and the manifest says so
	maxBundle      = 256 << 20 // of all of them
	bundleEvents   = 10_000    // the newest of the timeline
	bundleRingWait = 5 * time.Second
)

// A Manifest says what is in a bundle, and what is not and why.
type Manifest struct {
	Format  int             `json:"format"`
	Node    string          `json:"node"`
	At      time.Time       `json:"at"`
	Version string          `json:"version"`
	Build   string          `json:"build"`
	SHA256  string          `json:"binary_sha256"`
	Go      string          `json:"go"`
	Files   []BundleFile    `json:"files"`
	Missing []BundleMissing `json:"missing"`
}

// BundleFile is one of its files.
type BundleFile struct {
	Name   string `json:"name"`
	Bytes  int    `json:"bytes"`
	SHA256 string `json:"sha256"`
	Cut    bool   `json:"cut,omitempty"` // it was longer
}

// BundleMissing is one that could not be had.
type BundleMissing struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// bundle is one that is being gathered. What fails is noted, and the rest goes on: a bundle is asked for when something is
// wrong, which may well be what one of its parts reads.
type bundle struct {
	manifest Manifest
	files    map[string][]byte
	total    int
}

// limited is a buffer that takes so much and drops the rest.
type limited struct {
	bytes.Buffer
	max int
	cut bool
}

func (l *limited) Write(p []byte) (int, error) {
	room := max(0, l.max-l.Len())
	if len(p) > room {
		l.cut = true
		l.Buffer.Write(p[:room])
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

// add gathers one file.
func (b *bundle) add(name string, write func(w io.Writer) error) {
	out := &limited{max: min(maxBundlePart, maxBundle-b.total)}
	if err := write(out); err != nil {
		b.manifest.Missing = append(b.manifest.Missing, BundleMissing{Name: name, Reason: err.Error()})
		return
	}
	hash := sha256.Sum256(out.Bytes())
	b.manifest.Files = append(b.manifest.Files, BundleFile{Name: name, Bytes: out.Len(), SHA256: hex.EncodeToString(hash[:]), Cut: out.cut})
	b.files[name], b.total = out.Bytes(), b.total+out.Len()
}

func (b *bundle) addJSON(name string, value func() (any, error)) {
	b.add(name, func(w io.Writer) error {
		v, err := value()
		if err != nil {
			return err
		}
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	})
}

// debugBundle writes what somebody needs who looks for a mistake elsewhere and later. It asks nobody else and needs no
// quorum, and it holds no key, no token and no value: what it is made of has none.
func (a *Agent) debugBundle(ctx context.Context, w io.Writer) error {
	b := &bundle{files: make(map[string][]byte), manifest: Manifest{
		Format: BundleFormat, Node: a.ids.Node, At: clock.System().UTC(), Version: a.opts.Version, Build: BuildID(), Go: runtime.Version(),
	}}
	if self, err := os.Executable(); err == nil {
		b.manifest.SHA256, _ = hashFile(self)
	}
	// First what changes: the closer to the moment, the better.
	b.add("trace.out", a.writeFlight)
	b.add(BundleRecording, func(w io.Writer) error { return a.writeRecording(ctx, w) })
	b.add("goroutines.txt", func(w io.Writer) error { return pprof.Lookup("goroutine").WriteTo(w, 2) })
	for _, has := range a.recordings.list() {
		b.add(bundleSaved+has.Name, func(w io.Writer) error { return copyFile(w, a.dir.join(recordingsDir, has.Name)) })
	}
	b.addJSON("status.json", func() (any, error) { return a.status(), nil })
	b.addJSON("core.json", func() (any, error) { return a.coreStatus(), nil })
	b.addJSON("consensus.json", a.consensusStatus)
	b.addJSON("members.json", func() (any, error) { return a.apiMembers(), nil })
	b.addJSON("invariants.json", func() (any, error) { return a.invariants(), nil })
	b.addJSON("alerts.json", a.bundleAlerts)
	b.addJSON("timeline.json", func() (any, error) { return a.bundleTimeline(), nil })
	b.add("metrics.txt", a.writeMetrics)
	b.add("config.toml", func(w io.Writer) error { return toml.NewEncoder(w).Encode(a.cfg) }) // it has no field for a secret that is written
	b.add("log.txt", func(io.Writer) error {
		return errors.New("the agent writes its log to standard error and keeps none: take it from there, for example journalctl -u parley")
	})
	return b.write(w)
}

// write is a gzipped tar, the manifest first.
func (b *bundle) write(w io.Writer) error {
	manifest, err := json.MarshalIndent(b.manifest, "", "  ")
	if err != nil {
		return err
	}
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	put := func(name string, content []byte) error {
		err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content)), ModTime: b.manifest.At, Typeflag: tar.TypeReg})
		if err == nil {
			_, err = t.Write(content)
		}
		return err
	}
	if err := put(BundleManifest, manifest); err != nil {
		return err
	}
	for _, f := range b.manifest.Files {
		if err := put(f.Name, b.files[f.Name]); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

func (a *Agent) writeRecording(ctx context.Context, w io.Writer) error {
	n := a.core.running()
	if n == nil {
		return fmt.Errorf("%s runs no core member now", a.ids.Node)
	}
	ctx, cancel := context.WithTimeout(ctx, bundleRingWait)
	defer cancel()
	recording, err := n.node.Recording(ctx, "asked for")
	if err != nil {
		return err
	}
	_, err = w.Write(recording)
	return err
}

func (a *Agent) consensusStatus() (any, error) {
	n := a.core.running()
	if n == nil {
		return nil, fmt.Errorf("%s runs no core member now", a.ids.Node)
	}
	s := n.node.Status()
	return struct {
		consensus.Status
		Stopped string
	}{s, errorText(s.Stopped)}, nil
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (a *Agent) bundleAlerts() (any, error) {
	snapshot := a.watcher.board.Snapshot()
	if snapshot == nil {
		return nil, errors.New("nothing was judged yet")
	}
	return struct {
		Alerts []ops.AlertStatus
		Facts  ops.Facts
	}{snapshot.Alerts, snapshot.Facts}, nil
}

func (a *Agent) bundleTimeline() []state.Event {
	events := []state.Event{}
	a.hub.View().Events(0, func(e state.Event) bool {
		events = append(events, e)
		return true
	})
	return events[max(0, len(events)-bundleEvents):]
}

func (a *Agent) writeMetrics(w io.Writer) error {
	r, err := http.NewRequest(http.MethodGet, "/metrics", http.NoBody) //nolint:noctx // it goes nowhere
	if err != nil {
		return err
	}
	a.watcher.registry.Handler().ServeHTTP(&page{Writer: w, header: make(http.Header)}, r)
	return nil
}

// page is the answer of a handler, without its headers.
type page struct {
	io.Writer
	header http.Header
}

func (p *page) Header() http.Header { return p.header }
func (p *page) WriteHeader(int)     {}

func copyFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	_, err = io.Copy(w, f)
	return err
}
