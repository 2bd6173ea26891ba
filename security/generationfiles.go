package security

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// maxPutAside is of how many other host keys the generations are kept. Of more, those that were in use longest ago go.
const maxPutAside = 8

// generationFiles are the generations in a data directory: those of the host key in one file, and beside it those of host keys that
// were in its place before, because a wrong file may be put there and the right one come back.
//
//	generation.secret                                   of the host key
//	generation-0123456789abcdef0123456789abcdef.secret  of another one, named by its UID
type generationFiles struct{ dir string }

func (f generationFiles) path() string { return identityPath(f.dir, generationFile) }

func (f generationFiles) aside(uid string) string {
	return identityPath(f.dir, "generation-"+uid+".secret")
}

// write replaces the file of the host key.
func (f generationFiles) write(s ratchetState) error {
	data, err := json.Marshal(s)
	if err == nil {
		err = writeFile(f.path(), data)
	}
	if err != nil {
		return fmt.Errorf("save generations: %w", err)
	}
	return nil
}

// read returns what there is of the host with that UID, which is nothing before the first renewal. What is in the file of another
// host is put aside, what was put aside of this one is taken back; each is one rename, so that a crash in between leaves both.
func (f generationFiles) read(uid string) (ratchetState, error) {
	s, err := readGenerations(f.path())
	if err != nil {
		return s, err
	}
	if s.Host != "" && s.Host != uid {
		if err := f.putAside(s, uid); err != nil {
			return ratchetState{}, fmt.Errorf("put the generations of another host key aside: %w", err)
		}
		s = ratchetState{}
	}
	kept, err := readGenerations(f.aside(uid))
	switch {
	case err != nil && s.Host == "":
		return ratchetState{}, err
	case err == nil && kept.Host == uid && kept.further(s):
		if err := f.rename(f.aside(uid), f.path()); err != nil {
			return ratchetState{}, fmt.Errorf("take the generations of this host key back: %w", err)
		}
		return kept, nil
	case s.Host == "":
		s.Host = uid
	}
	return s, nil
}

// putAside keeps what is in the file, unless more of the same host was kept before. What there is of the host with that UID is about
// to be taken back.
func (f generationFiles) putAside(s ratchetState, uid string) error {
	kept, err := readGenerations(f.aside(s.Host))
	if err == nil && kept.Host == s.Host && !s.further(kept) {
		return f.remove(f.path())
	}
	if err := f.makeRoom(uid); err != nil {
		return err
	}
	return f.rename(f.path(), f.aside(s.Host))
}

// makeRoom removes what was in use longest ago, but not of the host with that UID, until one more may be put aside.
func (f generationFiles) makeRoom(uid string) error {
	names, err := f.putAsides()
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == f.aside(uid) })
	used := make(map[string]time.Time)
	for _, name := range names {
		info, err := os.Lstat(name)
		if err != nil {
			return err
		}
		used[name] = info.ModTime()
	}
	slices.SortFunc(names, func(a, b string) int { return used[a].Compare(used[b]) })
	for _, name := range names[:max(0, len(names)-maxPutAside+1)] {
		if err := f.remove(name); err != nil {
			return err
		}
	}
	return nil
}

// putAsides are the paths of what was put aside.
func (f generationFiles) putAsides() (paths []string, err error) {
	entries, err := os.ReadDir(identityPath(f.dir, ""))
	for _, e := range entries {
		uid, ours := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".secret"), "generation-")
		if ours && f.aside(uid) == identityPath(f.dir, e.Name()) && isUID(uid) {
			paths = append(paths, f.aside(uid))
		}
	}
	if isNotExist(err) {
		return nil, nil
	}
	return paths, err
}

func (f generationFiles) rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	written(to)
	return syncDir(filepath.Dir(to))
}

func (f generationFiles) remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	written(path)
	return syncDir(filepath.Dir(path))
}

// readGenerations reads one file. The zero value and no error mean that there is none; a link that leads nowhere is an error,
// because what it should lead to may only be not there yet.
func readGenerations(path string) (ratchetState, error) {
	data, err := readKeyFile(path)
	if isNotExist(err) {
		if _, linked := os.Lstat(path); linked == nil {
			return ratchetState{}, fmt.Errorf("%s is a link to a file that is not there", path)
		}
		return ratchetState{}, nil
	}
	if err != nil {
		return ratchetState{}, err
	}
	var s ratchetState
	if json.Unmarshal(data, &s) != nil || !s.whole() {
		return ratchetState{}, fmt.Errorf("%s holds no generations", path) // the parser's error may quote a secret
	}
	return s, nil
}

// ratchetState is a file of generations.
type ratchetState struct {
	Host     string `json:"host"`              // UID, in hex: another host key has other generations
	Last     uint64 `json:"last"`              // the newest generation that was answered
	Secrets  []byte `json:"secrets"`           // of Last and those before it, the oldest first
	Pending  []byte `json:"pending,omitempty"` // of the generation after Last, if an answer is waited for
	Recorded uint64 `json:"recorded"`          // the newest that is known to be in the replicated state
}

func (s ratchetState) whole() bool {
	kept := uint64(len(s.Secrets) / generationSecretBytes)
	return isUID(s.Host) && s.Last <= 1<<61 && (len(s.Pending) == 0 || len(s.Pending) == generationSecretBytes) &&
		len(s.Secrets)%generationSecretBytes == 0 && kept <= maxLinkSecrets && kept <= s.Last && (kept > 0) == (s.Last > 0)
}

// further tells whether s goes beyond other, of the same host.
func (s ratchetState) further(other ratchetState) bool {
	return s.Last > other.Last || s.Last == other.Last && len(s.Pending) > len(other.Pending) || other.Host == ""
}

func isUID(s string) bool {
	uid, err := hex.DecodeString(s)
	return err == nil && len(uid) == len(HostUID(nil)) && s == hex.EncodeToString(uid)
}
