package storage

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

func backupBytes(tb testing.TB, manifest, content []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w, err := NewBackupWriter(&out, manifest)
	if err != nil {
		tb.Fatal(err)
	}
	for len(content) > 0 {
		n := min(len(content), 70_001)
		if _, err := w.Write(content[:n]); err != nil {
			tb.Fatal(err)
		}
		content = content[n:]
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func readBackup(data []byte) (manifest, content []byte, err error) {
	r, err := OpenBackup(bytes.NewReader(data))
	if err != nil {
		return nil, nil, err
	}
	content, err = io.ReadAll(r)
	return r.Manifest(), content, err
}

func testContent(n int) []byte {
	random := rand.New(rand.NewPCG(7, 7))
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(random.IntN(4)) // compresses, a little
	}
	return out
}

// TestBackupRoundTrip: what was written is read back, whatever its size is beside a chunk's.
func TestBackupRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, maxChunkBytes - 1, maxChunkBytes, maxChunkBytes + 1, 2*maxChunkBytes + 77} {
		content := testContent(n)
		data := backupBytes(t, []byte(`{"a":1}`), content)
		manifest, got, err := readBackup(data)
		if err != nil || string(manifest) != `{"a":1}` || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: manifest %s, %d bytes, %v", n, manifest, len(got), err)
		}
	}
}

// TestBackupDamage: each byte that is flipped, each length that is cut to, and each byte added is found,
// and nothing of a bad chunk is returned. The untouched file is the control.
func TestBackupDamage(t *testing.T) {
	content := testContent(5000)
	data := backupBytes(t, []byte(`{"cluster":"x"}`), content)
	if _, got, err := readBackup(data); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("control: %v", err)
	}
	check := func(what string, at int, damaged []byte) {
		_, got, err := readBackup(damaged)
		if !errors.Is(err, ErrBackup) {
			t.Fatalf("%s at %d: error %v", what, at, err)
		}
		if !bytes.HasPrefix(content, got) {
			t.Fatalf("%s at %d: wrong content was returned", what, at)
		}
	}
	for at := range data {
		flipped := bytes.Clone(data)
		flipped[at] ^= 0x10
		check("flip", at, flipped)
		check("cut", at, data[:at])
	}
	zeroed := bytes.Clone(data)
	clear(zeroed[len(zeroed)/2 : len(zeroed)/2+512])
	check("512 zeros", len(zeroed)/2, zeroed)
	check("garbage tail", len(data), append(bytes.Clone(data), 0))
	check("twice", len(data), append(bytes.Clone(data), data...))
}

// TestBackupLimits: a manifest and a content over their limits are refused by the writer, and lengths
// over the limits by the reader before anything is allocated for them.
func TestBackupLimits(t *testing.T) {
	if _, err := NewBackupWriter(io.Discard, make([]byte, MaxBackupManifestBytes+1)); err == nil {
		t.Error("a manifest over its limit was written")
	}
	if _, err := NewBackupWriter(io.Discard, make([]byte, MaxBackupManifestBytes)); err != nil {
		t.Errorf("a manifest at its limit: %v", err)
	}
	w, err := NewBackupWriter(io.Discard, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.count = maxBackupChunks
	if _, err := w.Write(make([]byte, maxChunkBytes)); err == nil {
		t.Error("a chunk over the limit was written")
	}
	data := backupBytes(t, nil, []byte("x"))
	order.PutUint32(data[12:], MaxBackupManifestBytes+1)
	if _, _, err := readBackup(data); !errors.Is(err, ErrBackup) {
		t.Errorf("a manifest over its limit was read: %v", err)
	}
	data = backupBytes(t, nil, []byte("x"))
	order.PutUint32(data[backupFixedBytes+32:], maxStoredBytes+1)
	if _, _, err := readBackup(data); !errors.Is(err, ErrBackup) {
		t.Errorf("a chunk over its limit was read: %v", err)
	}
	order.PutUint32(data[8+0:], 9)
	if _, _, err := readBackup(data); !errors.Is(err, errFormat) {
		t.Errorf("another version: %v", err)
	}
}

// TestBackupWriterFails: an error of the writer below is not lost, wherever it comes.
func TestBackupWriterFails(t *testing.T) {
	whole := len(backupBytes(t, []byte("{}"), testContent(2*maxChunkBytes)))
	for at := 0; at < whole; at += 997 {
		w, err := NewBackupWriter(&shortWriter{left: at}, []byte("{}"))
		if err == nil {
			if _, err = w.Write(testContent(2 * maxChunkBytes)); err == nil {
				err = w.Close()
			}
		}
		if !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("room for %d bytes: %v", at, err)
		}
		if at > 4000 {
			at += whole / 16
		}
	}
}

type shortWriter struct{ left int }

func (s *shortWriter) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}
