package security

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// cutOff is the end of a program by kill -9, after so many steps.
type cutOff struct{ at string }

// cutAfter runs do and ends it after n steps of writing files, the last of them to a temporary file half done. It returns where that
// was, and "" when do had fewer steps.
func cutAfter(n int, do func()) (at string) {
	steps := 0
	written = func(path string) {
		if steps++; steps < n {
			return
		}
		if strings.HasSuffix(path, ".tmp") {
			_ = os.Truncate(path, 10)
		}
		panic(cutOff{path})
	}
	defer func() {
		written = func(string) {}
		end := recover()
		if cut, ok := end.(cutOff); ok {
			at = filepath.Base(cut.at)
		} else if end != nil {
			panic(end)
		}
	}()
	do()
	return ""
}

// judging is a cluster that remembers each mark of one host, and takes every contradiction and every gap for a copy.
type judging struct {
	*world
	known map[uint64]GenerationMark
	last  uint64
}

func (j *judging) judge(l *GenerationLink, hostKey []byte) error {
	if l == nil {
		return errors.New("the host shows no generation")
	}
	first, marks, err := l.Marks(j.gen.ClusterID, "a2", hostKey)
	if err != nil {
		return err
	}
	for i, mark := range marks {
		generation := first + uint64(i)
		if had, ok := j.known[generation]; ok && had != mark {
			return fmt.Errorf("another secret for generation %d, after %d", generation, j.last)
		}
		j.known[generation] = mark
	}
	last := first + uint64(len(marks)) - 1
	if last < j.last || first > j.last+1 {
		return fmt.Errorf("generations %d to %d, after %d", first, last, j.last)
	}
	j.last = last
	return nil
}

// lifeOf is a host from its first start on: it joins, is renewed, is given a wrong host key and its own one again, and is renewed. Each
// part may be begun anew wherever it ended.
type lifeOf struct {
	t        *testing.T
	door     *door
	j        *judging
	dir      string
	right    []byte // host.key, from when it was first read on
	finished int    // parts
}

func (l *lifeOf) live() error {
	parts := []func() error{l.join, l.renew, l.renew, l.renew, l.wrongKey, l.rightKey, l.renew, l.renew}
	for ; l.finished < len(parts); l.finished++ {
		if err := parts[l.finished](); err != nil {
			return fmt.Errorf("part %d: %w", l.finished, err)
		}
	}
	return nil
}

// join is what an agent does in a directory without a cluster file, which it writes last.
func (l *lifeOf) join() error {
	host, err := LoadHost(l.dir)
	if isNotExist(err) {
		host, err = CreateHost(l.dir)
	}
	if err != nil {
		return err
	}
	_, err = Join(l.t.Context(), JoinOptions{
		Token: l.door.token, Addrs: []string{l.door.addr}, Host: host, Node: "a2", Address: "127.0.0.2:8310", Dir: l.dir, Now: time.Now,
	})
	written("cluster.toml")
	return err
}

// start loads what a start of an agent loads.
func (l *lifeOf) start() (*Host, *Source, error) {
	if err := CheckKeyFiles(l.dir); err != nil {
		return nil, nil, err
	}
	host, err := LoadHost(l.dir)
	if err != nil {
		return nil, nil, err
	}
	src, err := NewSource(SourceOptions{Dir: l.dir, TrustDomain: l.j.td, Node: "a2", Host: host, Now: time.Now})
	return host, src, err
}

func (l *lifeOf) renew() error {
	host, src, err := l.start()
	if err != nil {
		return err
	}
	r := NewRenewer(RenewerOptions{
		Source: src, TTL: time.Hour, Now: time.Now, Log: zap.NewNop(), Ratchet: OpenRatchet(l.dir, l.j.gen.ClusterID, "a2", host),
		Renew: func(_ context.Context, req LeafRequest) ([][]byte, uint64, [][]byte, error) {
			if err := l.j.judge(req.Generation, host.HostKey()); err != nil {
				return nil, 0, nil, err
			}
			written("the answer") // which is lost
			chain, err := l.j.gen.Authority.SignAgent(req, time.Now())
			return chain, l.j.gen.BundleSequence, l.j.gen.Roots, err
		},
	})
	return r.renew(l.t.Context())
}

func (l *lifeOf) wrongKey() error {
	path := identityPath(l.dir, hostKeyFile)
	if l.right == nil {
		var err error
		if l.right, err = os.ReadFile(path); err != nil {
			return err
		}
	}
	key, err := encodeKey(testKey(l.t))
	if err == nil {
		err = writeFile(path, key)
	}
	if err != nil {
		return err
	}
	host, _, err := l.start()
	if err != nil {
		return err
	}
	_, err = OpenRatchet(l.dir, l.j.gen.ClusterID, "a2", host).Link()
	return err // nobody would answer
}

func (l *lifeOf) rightKey() error { return writeFile(identityPath(l.dir, hostKeyFile), l.right) }

// TestHostCutOffAnywhere: wherever a host ends by kill -9 between the steps by which keys, certificates, generations and what was put
// aside come to the disk, the next start goes on: it joins by the same token, is renewed, and is never taken for a copy. The control
// loses the generations at that moment, and is.
func TestHostCutOffAnywhere(t *testing.T) {
	w := newWorld(t, testTD)
	door := openDoor(t, w)
	for lossy, every := range map[bool]int{false: 1, true: 5} {
		cuts, forks := 0, 0
		for n := 1; ; n += every {
			l := &lifeOf{t: t, door: door, j: &judging{world: w, known: map[uint64]GenerationMark{}}, dir: t.TempDir()}
			var err error
			at := cutAfter(n, func() { err = l.live() })
			if at == "" {
				if err != nil {
					t.Fatalf("without an end: %v", err)
				}
				break
			}
			cuts++
			if lossy {
				_ = os.Remove(identityPath(l.dir, generationFile)) // there may be none yet
			}
			if err := l.live(); err != nil && lossy {
				forks++
			} else if err != nil {
				t.Errorf("cut off at step %d, %s: %v", n, at, err)
			}
		}
		if cuts*every < 60 || lossy && forks < 5 {
			t.Errorf("%d ends and %d forks: nothing was tested", cuts, forks)
		}
		t.Logf("lossy %t: cut off at %d places, taken for a copy after %d", lossy, cuts, forks)
	}
}

// TestFounderCutOffAnywhere: an init that ends between its steps is begun again, or its directory is refused with an identity in it
// that is whole.
func TestFounderCutOffAnywhere(t *testing.T) {
	for n := 1; ; n++ {
		dir := t.TempDir()
		found := func() error {
			_, err := InitIdentity(dir, testTD, "a1", InitKeys{}, time.Now())
			return err
		}
		var err error
		at := cutAfter(n, func() { err = found() })
		if at == "" {
			if err != nil || n < 12 {
				t.Fatalf("%d steps, %v", n, err)
			}
			return
		}
		if err := found(); err != nil && !errors.Is(err, ErrIdentityExists) {
			t.Errorf("cut off at step %d, %s: %v", n, at, err)
		}
		host, err := LoadHost(dir)
		if err == nil {
			_, err = NewSource(SourceOptions{Dir: dir, TrustDomain: testTD, Node: "a1", Host: host, Now: time.Now})
		}
		if err == nil {
			_, err = LoadAuthority(testTD, "a1", dir)
		}
		if err != nil {
			t.Errorf("cut off at step %d, %s: %v", n, at, err)
		}
	}
}
