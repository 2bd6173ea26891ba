package sim

import (
	"fmt"
	"testing"

	"github.com/parley-mesh/parley/consensus"
)

// TestRecordingsReplay: what every replica did in a run, with all its faults, is done again from its recording alone: each turn
// asks for the same, and where the ring began anew the core remembers the same to the last bit. Both sizes of the ring are
// reached: lives that fit, and lives of which the beginning is gone.
func TestRecordingsReplay(t *testing.T) {
	whole, cut, events := 0, 0, uint64(0)
	for seed := *flagSeed; seed < *flagSeed+4; seed++ {
		o := Options{Seed: seed, Nodes: 3 + 2*int(seed%2), RecordBytes: 48 << 10} //nolint:gosec // small
		type kept struct {
			host      string
			recording []byte
		}
		var all []kept
		o.Recording = func(host string, recording []byte) { all = append(all, kept{host, recording}) }
		if r := Run(o); r.Err != nil {
			t.Fatalf("seed %d: %v", seed, r.Err)
		}
		for i, k := range all {
			h, err := consensus.ReadRecordingHeader(k.recording)
			if err != nil {
				t.Fatal(err)
			}
			got, err := consensus.Replay(k.recording, "sim")
			if err == nil {
				err = got.Differs()
			}
			if err == nil && got.Panic != nil {
				err = fmt.Errorf("%+v", *got.Panic)
			}
			if err != nil || got.Violations != 0 {
				t.Errorf("seed %d, life %d of %s (%s, %d bytes): %v, %d violations", seed, i, k.host, h.Reason, len(k.recording), err, got.Violations)
			}
			if got.Events == h.Events {
				whole++
			} else {
				cut++
			}
			events += got.Events
		}
	}
	t.Logf("%d whole lives and %d cut ones, %d events", whole, cut, events)
	if whole < 10 || cut < 10 {
		t.Errorf("%d whole lives, %d cut ones", whole, cut)
	}
}
