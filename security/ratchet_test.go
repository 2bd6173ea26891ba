package security

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// copies is a host with its data directory, which can be copied.
type copies struct {
	t    *testing.T
	dir  string
	host *Host
}

func newCopies(t *testing.T) copies {
	t.Helper()
	dir := t.TempDir()
	host, err := CreateHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	return copies{t: t, dir: dir, host: host}
}

// open is what a start of the agent does.
func (c copies) open() *Ratchet { return OpenRatchet(c.dir, testClusterID, "a1", c.host) }

func (c copies) copy() copies {
	c.t.Helper()
	dir := c.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(c.dir)); err != nil {
		c.t.Fatal(err)
	}
	for _, path := range []string{hostKeyFile, sealKeyFile, generationFile} {
		if err := os.Chmod(identityPath(dir, path), 0o600); err != nil && !isNotExist(err) {
			c.t.Fatal(err)
		}
	}
	return copies{t: c.t, dir: dir, host: c.host}
}

// claimed is a link as the cluster reads it.
type claimed struct {
	first uint64
	marks []GenerationMark
}

func (c claimed) last() uint64 { return c.first + uint64(len(c.marks)) - 1 }

func (c copies) link(r *Ratchet) claimed {
	c.t.Helper()
	l, err := r.Link()
	if err != nil {
		c.t.Fatal(err)
	}
	first, marks, err := l.Marks(testClusterID, "a1", c.host.HostKey())
	if err != nil {
		c.t.Fatal(err)
	}
	return claimed{first, marks}
}

func (c copies) renew(r *Ratchet) claimed {
	c.t.Helper()
	l := c.link(r)
	if err := r.Accepted(); err != nil {
		c.t.Fatal(err)
	}
	r.Recorded(l.last())
	return l
}

// follows wants b to show the generation of a, and to go on from it by n.
func (c copies) follows(a, b claimed, n uint64) {
	c.t.Helper()
	if b.last() != a.last()+n || b.marks[a.last()-b.first] != a.marks[len(a.marks)-1] {
		c.t.Errorf("generation %d does not follow %d by %d", b.last(), a.last(), n)
	}
}

// TestRatchet: each renewal is of the next generation and shows the ones before. An attempt without an answer is repeated with the
// same link, by this process and by the next one, wherever it ended; so is one whose answer was written down by the cluster alone.
func TestRatchet(t *testing.T) {
	c := newCopies(t)
	r := c.open()
	first := c.link(r)
	if first.first != 1 || len(first.marks) != 1 {
		t.Errorf("the first link: %+v", first)
	}
	c.follows(first, c.link(r), 0)
	r = c.open() // crashed before the answer
	c.follows(first, c.link(r), 0)
	c.follows(first, c.renew(r), 0)
	second := c.renew(r)
	c.follows(first, second, 1)
	r = c.open() // a plain restart
	third := c.link(r)
	c.follows(second, third, 1)
	for range 20 { // killed again and again amid a renewal
		r = c.open()
		c.follows(third, c.link(r), 0)
	}
	for range 20 { // and right after one
		next := c.renew(r)
		r = c.open()
		c.follows(next, c.link(r), 1)
	}
	info, err := os.Stat(identityPath(c.dir, generationFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestRatchetCopies: two copies of a host show different generations from the next one on, and so does one that goes back. A copy
// that was made in the middle of a renewal shows an old link at first, and tells when it hears so.
func TestRatchetCopies(t *testing.T) {
	c := newCopies(t)
	r := c.open()
	before := c.renew(r)
	other := c.copy()
	a, b := c.renew(r), other.renew(other.open())
	c.follows(before, a, 1)
	c.follows(before, b, 1)
	if a.marks[1] == b.marks[1] {
		t.Error("two copies draw the same secret")
	}
	pending := c.link(r)
	amid := c.copy()
	c.follows(pending, c.renew(r), 0)
	c.renew(r)
	back := amid.open()
	c.follows(pending, amid.link(back), 0)
	if err := back.Outdated(); err != nil {
		t.Fatal(err)
	}
	told := amid.link(back)
	if told.last() != pending.last() || told.marks[len(told.marks)-1] == pending.marks[len(pending.marks)-1] {
		t.Error("a copy that went back, and heard so, shows what it showed before")
	}
	amid.follows(told, amid.link(amid.open()), 0)
}

// TestRatchetLimits reaches them: secrets that a host keeps, generations of which it does not know that they are written down, and
// what a link may hold.
func TestRatchetLimits(t *testing.T) {
	c := newCopies(t)
	r := c.open()
	var last claimed
	for range maxUnrecorded + 10 {
		last = c.link(r)
		if err := r.Accepted(); err != nil {
			t.Fatal(err)
		}
	}
	if last.last() != maxUnrecorded {
		t.Errorf("without a quorum the host is at generation %d, want %d", last.last(), maxUnrecorded)
	}
	r = c.open()
	c.follows(last, c.link(r), 0)
	r.Recorded(1 << 60) // no more than there is
	c.follows(last, c.link(r), 1)
	for range maxLinkSecrets {
		c.renew(r)
	}
	last = c.link(r)
	if len(last.marks) != maxLinkSecrets+1 || last.last() != maxUnrecorded+maxLinkSecrets+1 {
		t.Errorf("%d marks at generation %d", len(last.marks), last.last())
	}
	l, err := r.Link()
	if err != nil {
		t.Fatal(err)
	}
	size, err := json.Marshal(l)
	if err != nil || len(size) > 4096 {
		t.Errorf("the largest link has %d bytes: %v", len(size), err)
	}
	for what, change := range map[string]func(*GenerationLink){
		"too many secrets": func(l *GenerationLink) {
			l.Secrets = append(slices.Clone(l.Secrets), make([]byte, generationSecretBytes)...)
		},
		"half a secret":    func(l *GenerationLink) { l.Secrets = l.Secrets[1:] },
		"no generation":    func(l *GenerationLink) { l.Generation = 0 },
		"secrets of none":  func(l *GenerationLink) { l.Generation = maxLinkSecrets },
		"a short mark":     func(l *GenerationLink) { l.Mark = l.Mark[1:] },
		"no signature":     func(l *GenerationLink) { l.Signature = nil },
		"a long signature": func(l *GenerationLink) { l.Signature = make([]byte, maxHostSignature+1) },
		"another mark":     func(l *GenerationLink) { l.Mark = make([]byte, 16) },
		"another place":    func(l *GenerationLink) { l.Generation++ },
	} {
		changed := *l
		change(&changed)
		if _, _, err := changed.Marks(testClusterID, "a1", c.host.HostKey()); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	stranger := newCopies(t)
	for what, by := range map[string]struct {
		cluster, node string
		key           []byte
	}{
		"another cluster": {strings.Repeat("0", 32), "a1", c.host.HostKey()}, "another node": {testClusterID, "a2", c.host.HostKey()},
		"another host": {testClusterID, "a1", stranger.host.HostKey()},
	} {
		if _, _, err := l.Marks(by.cluster, by.node, by.key); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestRatchetWithoutDisk: a host that cannot write repeats the last generation that was answered, and shows none that a crash would
// make it forget; with none it says so. With room again it goes on.
func TestRatchetWithoutDisk(t *testing.T) {
	c := newCopies(t)
	r := c.open()
	path := identityPath(c.dir, generationFile) + ".tmp"
	block := func() {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	unblock := func() {
		t.Helper()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	block()
	if _, err := r.Link(); err == nil {
		t.Error("a first generation that is nowhere")
	}
	unblock()
	last := c.renew(r)
	block()
	c.follows(last, c.link(r), 0)
	c.follows(last, c.link(c.open()), 0)
	unblock()
	next := c.link(r)
	c.follows(last, next, 1)
	block()
	if err := r.Accepted(); err == nil {
		t.Error("what is not on disk is said to be")
	}
	c.follows(next, c.link(c.open()), 0) // the next start repeats it
	c.follows(next, c.link(r), 0)
}

// TestRatchetDamaged: a file that cannot be read is not taken for none, which would make the host look like a copy; the error says what
// to do and quotes nothing. That of another host key is none.
func TestRatchetDamaged(t *testing.T) {
	c := newCopies(t)
	c.renew(c.open())
	path := identityPath(c.dir, generationFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, data := range map[string][]byte{
		"nothing": {}, "half": good[:len(good)/2], "no secrets": []byte(`{"last":3}`), "secrets of none": []byte(`{"secrets":"AAAAAAAAAAAAAAAAAAAAAA=="}`),
		"a short one": []byte(`{"pending":"AAAA"}`), "too large": bytes.Repeat([]byte(" "), maxFileBytes+1),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.open().Link(); err == nil || !strings.Contains(err.Error(), "parley agent trust a1") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.open().Link(); err == nil {
		t.Error("a file that others may have read")
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := newHost()
	if err != nil {
		t.Fatal(err)
	}
	c.host = again
	if l := c.link(c.open()); l.first != 1 || len(l.marks) != 1 {
		t.Errorf("another host goes on: %+v", l)
	}
}

// FuzzGenerationLink: any bytes are refused or have marks in bounds, and without the host key none.
func FuzzGenerationLink(f *testing.F) {
	dir := f.TempDir()
	host, err := CreateHost(dir)
	if err != nil {
		f.Fatal(err)
	}
	r := OpenRatchet(dir, testClusterID, "a1", host)
	for range 3 {
		l, err := r.Link()
		if err != nil {
			f.Fatal(err)
		}
		data, err := json.Marshal(l)
		if err != nil || r.Accepted() != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"generation":18446744073709551615,"secrets":"AAAA","mark":"AAAAAAAAAAAAAAAAAAAAAA==","signature":"AA=="}`))
	f.Add([]byte(`{"generation":1,"mark":"AAAAAAAAAAAAAAAAAAAAAA==","signature":"AA=="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var l GenerationLink
		if decodeJSON(data, &l) != nil {
			return
		}
		first, marks, err := l.Marks(testClusterID, "a1", host.HostKey())
		if err == nil && (first == 0 || len(marks) == 0 || len(marks) > maxLinkSecrets+1 || first+uint64(len(marks))-1 != l.Generation) {
			t.Errorf("marks of %d generations from %d on, of link %d", len(marks), first, l.Generation)
		}
	})
}
