package security

import (
	"bytes"
	"testing"
)

// TestPairKey: two hosts derive the same key, and a third, another purpose or another context give another one.
func TestPairKey(t *testing.T) {
	hosts := make([]*Host, 3)
	for i := range hosts {
		h, err := newHost()
		if err != nil {
			t.Fatal(err)
		}
		hosts[i] = h
	}
	key := func(own, other *Host, purpose string, context ...string) []byte {
		parts := make([][]byte, len(context))
		for i, c := range context {
			parts[i] = []byte(c)
		}
		k, err := own.PairKey(other.SealKey(), purpose, parts...)
		if err != nil || len(k) != PairKeyBytes {
			t.Fatalf("%d bytes, %v", len(k), err)
		}
		return k
	}
	want := key(hosts[0], hosts[1], "p", "a", "b")
	if !bytes.Equal(want, key(hosts[1], hosts[0], "p", "a", "b")) {
		t.Error("the two have different keys")
	}
	for name, other := range map[string][]byte{
		"third":   key(hosts[2], hosts[0], "p", "a", "b"),
		"purpose": key(hosts[0], hosts[1], "q", "a", "b"),
		"context": key(hosts[0], hosts[1], "p", "ab"),
	} {
		if bytes.Equal(want, other) {
			t.Errorf("another %s gives the same key", name)
		}
	}
	if _, err := hosts[0].PairKey(make([]byte, 32), "p"); err == nil {
		t.Error("a key of zeros was taken")
	}
	if _, err := hosts[0].PairKey([]byte("short"), "p"); err == nil {
		t.Error("a short key was taken")
	}
}
