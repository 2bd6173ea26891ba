package consensus

import (
	"bytes"
	"errors"
	"testing"
)

func TestBatchRoundTrip(t *testing.T) {
	commands := [][]byte{[]byte("a"), {}, bytes.Repeat([]byte("b"), 1000)}
	data := encodeBatch(42, commands)
	if len(data) != batchSize(3, 1001) {
		t.Errorf("size %d, want %d", len(data), batchSize(3, 1001))
	}
	stamp, got, err := decodeBatch(data)
	if err != nil || stamp != 42 || len(got) != 3 || !bytes.Equal(got[2], commands[2]) {
		t.Errorf("got %v, %d commands, %v", stamp, len(got), err)
	}
	if s, ok := batchStamp(data); !ok || s != 42 {
		t.Errorf("stamp %v, %v", s, ok)
	}
}

func TestBatchRefuses(t *testing.T) {
	good := encodeBatch(1, [][]byte{[]byte("abc")})
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	tests := map[string][]byte{
		"empty":           nil,
		"cut":             good[:len(good)-1],
		"header only":     good[:batchHeaderSize],
		"trailing byte":   append(bytes.Clone(good), 0),
		"no commands":     edit(func(b []byte) []byte { b[12] = 0; return b }),
		"many commands":   edit(func(b []byte) []byte { b[9] = 0xff; return b }),
		"length too long": edit(func(b []byte) []byte { b[13] = 0xff; return b }),
		"too large":       make([]byte, maxBatchBytes+1),
	}
	tests["too large"][0] = batchVersion
	for name, data := range tests {
		if _, _, err := decodeBatch(data); !errors.Is(err, errBatch) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	var unknown *UnknownBatchError
	if _, _, err := decodeBatch([]byte{9, 0}); !errors.As(err, &unknown) || unknown.Version != 9 {
		t.Errorf("newer version: got %v", err)
	}
}

func FuzzBatch(f *testing.F) {
	f.Add(encodeBatch(1, [][]byte{[]byte("a"), nil}))
	f.Add([]byte{batchVersion})
	f.Fuzz(func(t *testing.T, data []byte) {
		stamp, commands, err := decodeBatch(data)
		if err != nil {
			return
		}
		if !bytes.Equal(encodeBatch(stamp, commands), data) {
			t.Error("a second encoding of the same batch was accepted")
		}
		if s, ok := batchStamp(data); !ok || s != stamp {
			t.Error("stamps differ")
		}
	})
}
