package agent

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"
)

// BuildID names this program: equal for equal binaries, and, as far as anybody can tell, for no others. It is Go's own id,
// which is a hash of all that went into the build and of what came out, and where the linker was told to leave that out the
// hash of the file.
var BuildID = sync.OnceValue(func() string {
	path, err := os.Executable()
	if err != nil {
		return "unknown"
	}
	if id := goBuildID(path); id != "" {
		return id
	}
	sum, err := hashFile(path)
	if err != nil {
		return "unknown"
	}
	return "sha256:" + sum
})

// goBuildID reads the note that Go's linker leaves.
func goBuildID(path string) string {
	f, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // only read
	section := f.Section(".note.go.buildid")
	if section == nil || section.Size > 4096 {
		return ""
	}
	note, err := section.Data()
	const header = 16 // three lengths of 4 bytes, and "Go\0\0"
	if err != nil || len(note) <= header {
		return ""
	}
	size := f.ByteOrder.Uint32(note[4:])
	if uint64(size) > uint64(len(note)-header) {
		return ""
	}
	return string(note[header : header+size])
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
