//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/security"
)

// capturedPackets is how many packets of each protocol are looked at.
const capturedPackets = 1000

// TestNothingInTheClear: whoever captures the mesh ports, or reads the disk of an agent outside the core,
// finds neither keys nor values, and the capture holds no token and no private key either.
func TestNothingInTheClear(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, lab.DefaultAgents+1) // a6 is a stranger
	s := newSniffer(n)
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute, Place: n.place})
	p := &planting{key: mark(), value: mark()}
	// Some pairs gossip by UDP, the others have to by TCP.
	n.cutBoth([]string{"a1", "a2"}, []string{"a3", "a4", "a5"}, "udp")
	exercise(t, n, s, l, p)
	checkCapture(t, n, s, l, p)
	checkDisks(t, l, p)
}

// planting is the mark in every key and in every value that this test writes.
type planting struct{ key, value string }

func (p *planting) needles() []needle {
	return []needle{newNeedle("planted key", []byte(p.key)), newNeedle("planted value", []byte(p.value))}
}

// exercise writes and reads through all agents and lets a stranger try to join, until enough packets of
// every protocol were captured.
func exercise(t *testing.T, n *network, s *sniffer, l *lab.Lab, p *planting) {
	t.Helper()
	join := stranger(t, n, l)
	began, rounds := time.Now(), 0
	clients := clientsOf(t, l)
	eventually(t, 50*time.Second, "packets of every protocol", func(ctx context.Context) error {
		if rounds++; rounds <= 80 { // the agents' own traffic is enough for the rest
			join(ctx)
			for name, c := range clients {
				if err := p.use(ctx, c, name); err != nil {
					return err
				}
			}
		}
		tallies := s.tallies()
		for _, name := range alpns {
			if tallies[name].packets < capturedPackets {
				return fmt.Errorf("%s: %+v after %d rounds", name, tallies[name], rounds)
			}
		}
		return nil
	})
	tallies := s.tallies()
	for _, name := range slices.Sorted(maps.Keys(tallies)) {
		t.Logf("captured of %s: %d packets, %d handshakes", name, tallies[name].packets, tallies[name].handshakes)
	}
	t.Logf("that took %s, %d rounds", time.Since(began).Round(time.Millisecond), rounds)
	if lost := s.lost(); lost > 0 {
		t.Errorf("the capture lost %d packets, so it proves nothing", lost)
	}
}

// use has an agent write, read and list what is planted.
func (p *planting) use(ctx context.Context, c *client.Client, via string) error {
	key := p.key + "/" + via
	if _, err := c.Put(ctx, key, []byte(p.value+" by "+via), client.PutOptions{}); err != nil {
		return err
	}
	pair, err := c.Get(ctx, key, client.ReadOptions{})
	if err != nil || !strings.HasPrefix(string(pair.Value), p.value) {
		return fmt.Errorf("read %s back through %s: got %q, error %w", key, via, pair.Value, err)
	}
	_, err = c.List(ctx, p.key, client.ListOptions{})
	return err
}

// stranger returns what a host does that tries to join with the lab's token, which has no use left: it
// proves that it has the secret, and is refused.
func stranger(t *testing.T, n *network, l *lab.Lab) (join func(context.Context)) {
	t.Helper()
	dir := t.TempDir()
	host, err := security.CreateHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	token := labToken(t, l)
	dial := func(_ context.Context, addr string) (conn net.Conn, err error) {
		n.inside("a6", func() error {
			conn, err = net.DialTimeout("tcp", addr, 5*time.Second)
			return err
		})
		return conn, err
	}
	turn := 0
	return func(ctx context.Context) {
		turn++
		_, err := security.Join(ctx, security.JoinOptions{
			Token: token, Addrs: []string{l.Agents[turn%len(l.Agents)].Mesh}, Host: host, Node: "a6",
			Address: n.addr("a6") + ":8310", Dir: dir, Now: time.Now, Dial: dial,
		})
		var refused *security.JoinError
		if !errors.As(err, &refused) || refused.Code != security.JoinUsed {
			t.Fatalf("join with a used token: got %v, want the refusal %s", err, security.JoinUsed)
		}
	}
}

func labToken(t *testing.T, l *lab.Lab) security.Token {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(l.Dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := security.ParseToken(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// checkCapture wants nothing of what is secret in the capture, and, when a stranger has sent it in the
// clear from and to the mesh's port, all of what was planted.
func checkCapture(t *testing.T, n *network, s *sniffer, l *lab.Lab, p *planting) {
	t.Helper()
	token := labToken(t, l)
	needles := append(p.needles(),
		newNeedle("token's secret", token.Secret[:]), newNeedle("token", []byte(token.String())),
		newNeedle("token's verification key", token.VerifyKey()))
	for _, a := range l.Agents {
		needles = append(needles, keyNeedles(t, a.Name, filepath.Join(a.DataDir, "identity"))...)
	}
	if seen := s.search(needles); len(seen) > 0 {
		t.Errorf("the capture holds in the clear: %q", slices.Sorted(maps.Keys(seen)))
	}
	t.Logf("searched the capture for %d secrets, %d of them private keys", len(needles), len(needles)-len(p.needles())-3)

	sendClear(t, n, p.key[:7], p.key[7:]+"=") // in two packets
	sendClear(t, n, fmt.Sprintf("{%x}", p.value))
	eventually(t, 5*time.Second, "control: what is sent in the clear is found", func(context.Context) error {
		if seen := s.search(needles); len(seen) != len(p.needles()) {
			return fmt.Errorf("found %q", slices.Sorted(maps.Keys(seen)))
		}
		return nil
	})
}

// sendClear sends parts from a1's host to a6's mesh port, where no agent is, by plain TCP.
func sendClear(t *testing.T, n *network, parts ...string) {
	t.Helper()
	var listener net.Listener
	n.inside("a6", func() (err error) {
		listener, err = net.Listen("tcp", n.addr("a6")+":8310")
		return err
	})
	defer listener.Close() //nolint:errcheck // a test's own
	n.inside("a1", func() error {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close() //nolint:errcheck // a test's own
		for _, part := range parts {
			if _, err := io.WriteString(conn, part); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkDisks wants nothing of what was planted in the files of agents outside the core, those that they
// write when they stop included, and, as a control, all of it in a core member's.
func checkDisks(t *testing.T, l *lab.Lab, p *planting) {
	t.Helper()
	members, err := clientOf(t, l.Agents[0]).Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	outside, controls := 0, 0
	for _, m := range members {
		a, err := l.Agent(m.Name)
		if err != nil {
			t.Fatal(err)
		}
		switch m.Core {
		case "none":
			outside++
			if err := l.Kill(a.Name, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			eventually(t, 10*time.Second, a.Name+" stops", func(context.Context) error {
				if a.Running() {
					return errors.New("it runs")
				}
				return nil
			})
			hits, files, size, err := searchFiles(filepath.Dir(a.DataDir), p.needles())
			if len(hits) > 0 || err != nil || files < 8 {
				t.Errorf("%s is outside the core and its disk (%d files, error %v) holds %q", a.Name, files, err, hits)
			}
			t.Logf("%s, outside the core: nothing in %d files, %d bytes", a.Name, files, size)
		case "voter":
			controls++
			hits, files, size, err := searchFiles(a.DataDir, p.needles())
			if len(hits) < len(p.needles()) || err != nil {
				t.Errorf("control: the disk of %s, a core member, holds %q, error %v; want key and value", a.Name, hits, err)
			}
			t.Logf("control, %s, in the core: %d files, %d bytes, %q", a.Name, files, size, hits)
		}
	}
	if outside == 0 || controls == 0 {
		t.Errorf("%d agents outside the core and %d voters were searched", outside, controls)
	}
}
