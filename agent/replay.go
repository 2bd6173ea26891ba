package agent

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/parley-mesh/parley/consensus"
)

// MaxBundle bounds what is read as a debug bundle, unpacked.
const MaxBundle = maxBundle + maxBundlePart

// NamedRecording is a recording in a bundle.
type NamedRecording struct {
	Name    string
	Content []byte
}

// ReplayReport is what the recordings of a bundle did when they were replayed: sums, and the first violation.
type ReplayReport struct {
	Events     uint64                   `json:"events"`
	Violations uint64                   `json:"violations"`
	First      *consensus.ReplayedEvent `json:"first"`
	Diverged   uint64                   `json:"diverged"` // recordings whose replay did something else than what was recorded
	Panics     uint64                   `json:"panics"`
	Recordings []ReplayedRecording      `json:"recordings"`
	Problem    string                   `json:"-"` // "" if there was none
}

// ReplayedRecording is one of them.
type ReplayedRecording struct {
	Name    string `json:"name"`
	Reason  string `json:"reason"`
	Outcome string `json:"outcome"` // as recorded, or what was seen
	consensus.Replayed
}

// ReadManifest reads the manifest of a bundle.
func ReadManifest(b []byte) (m Manifest, err error) {
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read its manifest: %w", err)
	}
	if m.Format != BundleFormat {
		return m, withHint(fmt.Errorf("it has format %d, and this program reads format %d", m.Format, BundleFormat),
			"use the version that made it: "+m.Version)
	}
	return m, nil
}

// Replay replays recordings. anyBuild tries those of other programs.
func Replay(list []NamedRecording, anyBuild bool) (r ReplayReport, err error) {
	if len(list) == 0 {
		return r, withHint(errors.New("there is no recording in it: the agent ran no core member, or its recorder was off"),
			"see debug.recorder_mib, and the list of what is missing in its manifest.json")
	}
	build := BuildID()
	if anyBuild {
		build = ""
	}
	for _, one := range list {
		header, err := consensus.ReadRecordingHeader(one.Content)
		if err != nil {
			return r, fmt.Errorf("%s: %w", one.Name, err)
		}
		got, err := consensus.Replay(one.Content, build)
		if err != nil {
			return r, fmt.Errorf("%s: %w", one.Name, err)
		}
		r.add(ReplayedRecording{Name: one.Name, Reason: header.Reason, Replayed: got})
	}
	return r, nil
}

func (r *ReplayReport) add(one ReplayedRecording) {
	one.Outcome = "as recorded"
	r.Events += one.Events
	r.Violations += one.Violations
	if r.First == nil {
		r.First = one.First
	}
	switch {
	case one.Panic != nil:
		r.Panics++
		one.Outcome = fmt.Sprintf("panics at event %d: %s", one.Panic.Event, one.Panic.Detail)
		r.Problem = one.Name + " " + one.Outcome
	case one.Diverged != nil:
		r.Diverged++
		one.Outcome = one.Differs().Error()
		r.Problem = one.Name + ": " + one.Outcome
	case one.Violations > 0 && r.Problem == "":
		r.Problem = fmt.Sprintf("%s: %d violations, the first is of %s at event %d", one.Name, one.Violations, one.First.Invariant, one.First.Event)
	}
	r.Recordings = append(r.Recordings, one)
}
