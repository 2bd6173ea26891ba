package state

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"strings"
	"testing"
)

// TestSnapshotOfBefore: a snapshot of a binary that did not have the tables behind lastListed is taken, and the state in it has the
// same digest and the same snapshot here. With a row in one of them it has others, which are taken too; and a table that is
// not known here is named.
func TestSnapshotOfBefore(t *testing.T) {
	text, err := os.ReadFile("testdata/snapshot/without-later-tables.base64")
	if err != nil {
		t.Fatal(err)
	}
	before, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	m := NewMachine()
	if err := m.Restore(bytes.NewReader(before)); err != nil {
		t.Fatal(err)
	}
	if kv, ok := m.View().Get("b"); !ok || string(kv.Value) != "2" {
		t.Errorf("b is %q", kv.Value)
	}
	if !bytes.Equal(snapshotOf(t, m.View(), AllClasses), before) {
		t.Error("the same state is another snapshot here")
	}
	digest := m.View().Digest()
	hard := append([]byte{4}, make([]byte, HardSealKeyBytes-1)...)
	do(t, m, SealKeySet{Node: "a1", Key: hard, Signing: m.View().s.signing(), Sealed: []byte("sealed")}, CodeOK)
	after := snapshotOf(t, m.View(), AllClasses)
	again := NewMachine()
	if err := again.Restore(bytes.NewReader(after)); err != nil || again.View().Digest() != m.View().Digest() || m.View().Digest() == digest {
		t.Errorf("with a row in a later table: %v", err)
	}
	if _, ok := again.View().s.get(TableSealKey, "a1"); !ok {
		t.Error("the row in a later table is lost")
	}
	header := func(more ...byte) []byte {
		b := append(NewMachine().View().s.appendHeader([]byte{itemHeader}, AllClasses), more...)
		return append([]byte{byte(len(b)) | 0x80, byte(len(b) >> 7)}, b...)
	}
	if err := NewMachine().Restore(bytes.NewReader(header(byte(tableEnd), 0, 0))); !errors.Is(err, ErrLater) {
		t.Errorf("a table of a later version: %v", err)
	}
	for want, b := range map[string][]byte{
		"is unknown to this binary": header(byte(tableEnd), 0, 0), "an empty table": header(byte(TableSealKey), 0, 0),
		"out of order":  header(byte(TableUpstream), 1, 1, byte(TableSealKey), 1, 1),
		"after the end": header(byte(tableEnd-1), 1, 1, byte(TableSealKey), 1, 1),
	} {
		if err := NewMachine().Restore(bytes.NewReader(b)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
