package state

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

// TestSweep: a row that changed in memory is found within one round over all rows, and is not written to a snapshot. The
// digest, which adds up what was written, does not see it: that is the control.
func TestSweep(t *testing.T) {
	m := testGenesis()
	for i := range 300 {
		do(t, m, Put{Key: fmt.Sprintf("k%03d", i), Value: []byte("value")}, CodeOK)
	}
	v := m.View()
	rounds := func(s *Sweep, v *View) error {
		for range 100 {
			if _, err := s.Next(v, 7); err != nil {
				return err
			}
		}
		return nil
	}
	var s Sweep
	if err := rounds(&s, v); err != nil {
		t.Fatalf("a sound state: %v", err)
	}
	before := v.Digest()
	kv, _ := v.Get("k123")
	kv.Value[0] ^= 1
	if v.Digest() != before {
		t.Error("the digest has seen it: the sweep is not needed any more")
	}
	if err := rounds(&s, v); !errors.Is(err, ErrMemory) {
		t.Errorf("a flipped row: %v", err)
	}
	if err := v.WriteSnapshot(io.Discard); !errors.Is(err, ErrMemory) {
		t.Errorf("a snapshot of a flipped row: %v", err)
	}
	if err := v.WriteAsIs(io.Discard); err != nil {
		t.Errorf("evidence of a flipped row: %v", err)
	}
	kv.Value[0] ^= 1
	s = Sweep{}
	if err := rounds(&s, v); err != nil {
		t.Errorf("the bit is as it was: %v", err)
	}
}
