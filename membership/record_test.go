package membership

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func testRecord() record {
	return record{
		Name: "node-1", Addr: netip.MustParseAddrPort("[2001:db8::1]:8310"), Epoch: 1 << 60, Seq: 7, Base: 12,
		Binding: [16]byte{1, 2, 3}, Leaving: true, Zone: "eu-1a", Version: "v1.2.3",
	}
}

// A record survives its encoding; the largest fits memberlist's Meta; any changed byte breaks it.
func TestRecord(t *testing.T) {
	key := newKey()
	r := testRecord()
	meta, err := signRecord(r, testCluster, key)
	if err != nil {
		t.Fatal(err)
	}
	got, body, sig, err := decodeRecord(meta)
	if err != nil || got != r {
		t.Fatalf("got %+v, %v, want %+v", got, err, r)
	}
	if !bytes.Equal(body, r.body()) || len(sig) == 0 {
		t.Error("body or signature cut wrong")
	}
	large := r
	large.Name, large.Zone, large.Version = strings.Repeat("n", maxNameBytes), strings.Repeat("z", maxZoneBytes), strings.Repeat("v", maxVersionBytes)
	if meta, err := signRecord(large, testCluster, key); err != nil || len(meta) > maxRecordBytes {
		t.Errorf("largest record is %d bytes (%v), limit %d", len(meta), err, maxRecordBytes)
	}
}

func TestVerify(t *testing.T) {
	w := newWall(t)
	meta := w.meta("v", addrOf(2), 1, 1, 1, false)
	if _, err := w.records.verify(meta); err != nil {
		t.Fatal(err)
	}
	for i := range meta {
		changed := bytes.Clone(meta)
		changed[i] ^= 1
		if _, err := w.records.verify(changed); err == nil {
			t.Fatalf("accepted with byte %d changed", i)
		}
		if _, err := w.records.verify(meta[:i]); err == nil {
			t.Fatalf("accepted cut to %d bytes", i)
		}
	}
	if _, err := w.records.verify(append(bytes.Clone(meta), 0)); err == nil {
		t.Error("accepted with a byte behind")
	}
	// A verified record must not outlive its binding in the cache.
	w.keys["v"] = newKey()
	if _, err := w.records.verify(meta); !errors.Is(err, errUnknownBinding) {
		t.Errorf("after the host key changed: %v, want %v", err, errUnknownBinding)
	}
	for range maxVerified + 1 {
		w.records.remember([32]byte{byte(len(w.records.mu.done)), byte(len(w.records.mu.done) >> 8)})
	}
	if n := len(w.records.mu.done); n > maxVerified {
		t.Errorf("cache holds %d, limit %d", n, maxVerified)
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "node-1.eu_2": true, "0": true, strings.Repeat("a", 63): true,
		"": false, ".": false, "..": false, "-a": false, "A": false, "a/b": false, "a b": false, strings.Repeat("a", 64): false,
	} {
		if got := validName(name); got != want {
			t.Errorf("validName(%q) = %v, want %v", name, got, want)
		}
	}
}

// Whatever decodes encodes to the same bytes: a record has one form.
func FuzzRecord(f *testing.F) {
	meta, err := signRecord(testRecord(), testCluster, newKey())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(meta)
	f.Add([]byte{recordFormat, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, body, sig, err := decodeRecord(b)
		if err != nil {
			return
		}
		if again := appendShort(r.body(), sig); !bytes.Equal(again, b) || !bytes.Equal(body, r.body()) {
			t.Errorf("%x decodes and encodes to %x", b, again)
		}
	})
}

// TestVersionsOfGoFit: an agent that was built between releases starts, whatever Go names it.
func TestVersionsOfGoFit(t *testing.T) {
	for _, version := range []string{"v0.0.0-20261127102113-e77b13286be1", "v12.34.57-0.20261127102113-e77b13286be1+dirty"} {
		if len(version) > maxVersionBytes {
			t.Errorf("%s does not fit into a record", version)
		}
	}
}
