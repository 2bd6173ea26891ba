package security

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// as is the directory with another host key in it.
func (c copies) as(host *Host) copies { return copies{c.t, c.dir, host} }

func (c copies) stranger() copies {
	c.t.Helper()
	host, err := newHost()
	if err != nil {
		c.t.Fatal(err)
	}
	return c.as(host)
}

// wrongKey is an agent that runs by the key of another host, which the cluster does not renew whatever it shows.
func (c copies) wrongKey(starts int) {
	c.t.Helper()
	for range starts {
		r := c.open()
		c.link(r)
		if err := r.Outdated(); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c copies) asides() []string {
	c.t.Helper()
	paths, err := generationFiles{c.dir}.putAsides()
	if err != nil {
		c.t.Fatal(err)
	}
	return paths
}

// TestGenerationsOutliveAWrongHostKey: whoever puts a wrong host key into the directory and the right one back finds the host at the
// generation that it was at. Each key has its own, and all of them are for the agent alone.
func TestGenerationsOutliveAWrongHostKey(t *testing.T) {
	right := newCopies(t)
	r := right.open()
	for range 3 {
		right.renew(r)
	}
	pending := right.link(r) // asked, and not answered
	wrong := right.stranger()
	wrong.wrongKey(3)
	right.follows(pending, right.link(right.open()), 0)
	last := right.renew(right.open())
	second := wrong.renew(wrong.open())
	if second.last() != 1 {
		t.Errorf("the other key goes on from generation %d", second.last())
	}
	right.follows(last, right.renew(right.open()), 1)
	wrong.follows(second, wrong.link(wrong.open()), 1)
	for _, path := range append(wrong.asides(), identityPath(right.dir, generationFile)) {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if err := os.Chmod(wrong.asides()[0], 0o640); err != nil {
		t.Fatal(err)
	}
	if err := CheckKeyFiles(right.dir); err == nil || !strings.Contains(err.Error(), "generation-") {
		t.Errorf("others may have read what was put aside: %v", err)
	}
}

// TestGenerationsPutAsideWithABackup: the host key comes back out of a backup, and with it the generations of the backup, which are
// older than what was put aside: the newer ones count.
func TestGenerationsPutAsideWithABackup(t *testing.T) {
	c := newCopies(t)
	r := c.open()
	c.renew(r)
	backup, err := os.ReadFile(identityPath(c.dir, generationFile))
	if err != nil {
		t.Fatal(err)
	}
	c.renew(r)
	last := c.renew(r)
	c.stranger().wrongKey(1)
	if err := os.WriteFile(identityPath(c.dir, generationFile), backup, 0o600); err != nil {
		t.Fatal(err)
	}
	c.follows(last, c.link(c.open()), 1)
}

// TestGenerationsPutAsideAreBounded: of more host keys than a directory remembers those go that were in use longest ago.
func TestGenerationsPutAsideAreBounded(t *testing.T) {
	c := newCopies(t)
	var hosts []copies
	var last []claimed
	for i := range maxPutAside + 4 {
		host := c.stranger()
		hosts, last = append(hosts, host), append(last, host.renew(host.open()))
		then := time.Now().Add(time.Duration(i-100) * time.Minute)
		if err := os.Chtimes(identityPath(c.dir, generationFile), then, then); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.asides()); n != maxPutAside {
		t.Errorf("%d are kept, want %d", n, maxPutAside)
	}
	for i, host := range hosts[3:] { // the first three were forgotten
		host.follows(last[3+i], host.link(host.open()), 1)
	}
	if n := len(c.asides()); n > maxPutAside {
		t.Errorf("%d are kept, want at most %d", n, maxPutAside)
	}
	if l := hosts[0].link(hosts[0].open()); l.last() != 1 {
		t.Errorf("one that was forgotten goes on from generation %d", l.last())
	}
}

// TestRatchetReadsAgain: a file that cannot be read when the agent starts is read again by itself, soon after it is mended, and the
// host goes on where it was. Until then it asks without a generation, says so, and logs it once. The control is a file that nobody
// mends.
func TestRatchetReadsAgain(t *testing.T) {
	for what, faulty := range map[string]func(path string) error{
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a wide file": func(path string) error { return os.WriteFile(path, []byte("{}"), 0o644) }, //nolint:gosec // the fault
		"half a file": func(path string) error { return os.WriteFile(path, []byte(`{"host":"0`), 0o600) },
		"a dead link": func(path string) error { return os.Symlink("not-mounted-yet", path) },
		"a circle":    func(path string) error { return os.Symlink(filepath.Base(path), path) },
		"a pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCopies(t)
				last := c.renew(c.open())
				path := identityPath(c.dir, generationFile)
				if err := os.Rename(path, path+".good"); err != nil {
					t.Fatal(err)
				}
				if err := faulty(path); err != nil {
					t.Fatal(err)
				}
				r := c.open()
				logs := tended(t, r)
				time.Sleep(10*time.Minute + time.Second) // not at the moment of a reading
				if _, err := r.Link(); err == nil || !strings.Contains(err.Error(), "parley agent trust a1") {
					t.Errorf("a link all the same: %v", err)
				}
				if unread, err := r.Err(); !unread || err == nil {
					t.Errorf("it does not say so: %t, %v", unread, err)
				}
				if logs.Len() != 1 || logs.All()[0].Level != zapcore.ErrorLevel {
					t.Errorf("logged %v", logs.All())
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(path+".good", path); err != nil {
					t.Fatal(err)
				}
				time.Sleep(ratchetRetry + time.Second)
				if unread, err := r.Err(); unread || err != nil || logs.Len() != 2 {
					t.Errorf("mended, and still: %t, %v, %d lines", unread, err, logs.Len())
				}
				c.follows(last, c.link(r), 1)
			})
		})
	}
}

// TestRatchetBehindALink: the file may be a link to another file system, which is read; the next secret is written in its place.
func TestRatchetBehindALink(t *testing.T) {
	c := newCopies(t)
	last := c.renew(c.open())
	path, elsewhere := identityPath(c.dir, generationFile), filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.Rename(path, elsewhere), os.Symlink(elsewhere, path)); err != nil {
		t.Fatal(err)
	}
	next := c.renew(c.open())
	c.follows(last, next, 1)
	if err := os.Remove(elsewhere); err != nil {
		t.Fatal(err)
	}
	c.follows(next, c.link(c.open()), 1)
}

// tended runs the ratchet and returns what it logs.
func tended(t *testing.T, r *Ratchet) *observer.ObservedLogs {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx, zap.New(core))
	}()
	t.Cleanup(func() { cancel(); <-done })
	return logs
}

// TestRatchetFileComesBackLate: an agent that starts before its file is there, and one that looks while somebody puts it in place of a
// damaged one, have not begun anew when it comes.
func TestRatchetFileComesBackLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCopies(t)
		last := c.renew(c.open())
		path := identityPath(c.dir, generationFile)
		if err := errors.Join(os.Rename(path, path+".good"), os.WriteFile(path, []byte("{"), 0o600)); err != nil {
			t.Fatal(err)
		}
		r := c.open()
		tended(t, r)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		early := c.open()
		time.Sleep(ratchetRetry + time.Second)
		if unread, err := r.Err(); unread || err != nil {
			t.Errorf("removed, and still: %v", err)
		}
		if err := os.Rename(path+".good", path); err != nil {
			t.Fatal(err)
		}
		c.follows(last, c.link(r), 1)
		c.follows(last, c.link(early), 1)
	})
}

// TestRatchetReadsWithinARenewal: a renewal reads again as well, whether anybody runs the ratchet or not.
func TestRatchetReadsWithinARenewal(t *testing.T) {
	c := newCopies(t)
	last := c.renew(c.open())
	path := identityPath(c.dir, generationFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, good[:10], 0o600); err != nil {
		t.Fatal(err)
	}
	r := c.open()
	if _, err := r.Link(); err == nil {
		t.Error("half a file is read")
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	c.follows(last, c.link(r), 1)
}

// TestRatchetFullDisk: where no secret can be written, renewal goes on with the last one, and the host says so, once in the log. With
// room that is over within seconds, without a renewal in between, and the next one is of the next generation.
func TestRatchetFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCopies(t)
		r := c.open()
		logs := tended(t, r)
		last := c.renew(r)
		full := identityPath(c.dir, generationFile) + ".tmp"
		if err := os.MkdirAll(filepath.Join(full, "full"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Err(); err != nil || logs.Len() != 0 {
			t.Errorf("before anything is wrong: %v, %v", err, logs.All())
		}
		for range 20 {
			c.follows(last, c.link(r), 0)
			time.Sleep(time.Minute)
		}
		time.Sleep(time.Second) // not at the moment of a writing
		if unread, err := r.Err(); unread || err == nil {
			t.Errorf("it does not say so: %t, %v", unread, err)
		}
		if logs.Len() != 1 || logs.All()[0].Level != zapcore.WarnLevel {
			t.Errorf("logged %v", logs.All())
		}
		if err := os.RemoveAll(full); err != nil {
			t.Fatal(err)
		}
		time.Sleep(ratchetRetry + time.Second)
		if _, err := r.Err(); err != nil || logs.Len() != 2 {
			t.Errorf("with room: %v, %d lines", err, logs.Len())
		}
		if drawn, err := os.ReadFile(identityPath(c.dir, generationFile)); err != nil || strings.Contains(string(drawn), "pending") {
			t.Errorf("a secret was drawn that no renewal asked for: %v", err)
		}
		c.follows(last, c.link(r), 1)
	})
}

// TestNoFileInPlaceOfAKey: what is no file is named as such, and not as a key that others may read; a pipe is not waited for.
func TestNoFileInPlaceOfAKey(t *testing.T) {
	for _, name := range []string{hostKeyFile, sealKeyFile, generationFile} {
		for kind, make := range map[string]func(string) error{
			"directory": func(path string) error { return os.Mkdir(path, 0o755) }, //nolint:gosec // the fault
			"pipe":      func(path string) error { return syscall.Mkfifo(path, 0o644) },
		} {
			c := newCopies(t)
			path := identityPath(c.dir, name)
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			err := CheckKeyFiles(c.dir)
			if err == nil {
				_, err = LoadHost(c.dir)
			}
			if name == generationFile {
				_, err = c.open().Link()
			}
			if want := fmt.Sprintf("%s is no file but a %s", path, kind); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("a %s: %v", kind, err)
			}
		}
	}
}
