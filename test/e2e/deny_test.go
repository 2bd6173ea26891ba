//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

const (
	deniedWithin = time.Second // of the answer to who denied it, everywhere
	denyRounds   = 5
)

// TestDenialReachesAll: within a second of the commit no agent has a connection of the denied operator, nor takes another one;
// those of another operator stay, and removing the denial lets it in again.
func TestDenialReachesAll(t *testing.T) {
	l := startLab(t, lab.Options{})
	clients := clientsOf(t, l)
	eve, adam := labOperator(t, clients["a1"], "eve"), labOperator(t, clients["a1"], "adam")
	his := operatorConns(t, l, adam, net.Dial)
	var took, whole []time.Duration
	for range denyRounds {
		hers := operatorConns(t, l, eve, net.Dial)
		began := time.Now()
		if _, err := clients["a4"].SetDeny(t.Context(), "/parley/operator/eve", 0, "a test"); err != nil {
			t.Fatal(err)
		}
		answered := time.Now()
		for name, ended := range hers {
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s holds a connection of a denied operator", name)
			}
		}
		took, whole = append(took, time.Since(answered)), append(whole, time.Since(began))
		for _, a := range l.Agents {
			if conn, err := asOperator(net.Dial, a.Mesh, eve); err == nil {
				_ = conn.Close()
				t.Errorf("%s takes another connection", a.Name)
			}
		}
		if err := clients["a5"].RemoveDeny(t.Context(), "/parley/operator/eve"); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(took)
	slices.Sort(whole)
	t.Logf("no connection of five is left %s after the answer (median; all: %s), %s after the request was sent", took[denyRounds/2], took, whole[denyRounds/2])
	if worst := took[denyRounds-1]; worst > deniedWithin {
		t.Errorf("a connection was left for %s after the answer", worst)
	}
	for name, ended := range his {
		select {
		case <-ended:
			t.Errorf("control: %s ended a connection of another operator", name)
		default:
		}
	}
}

// TestDenialByGossip: an agent that reaches no member of the core hears of a denial from another agent outside, ends what is open,
// and hears of its removal. The control is the same agent when it reaches nobody: it goes by what it knows, until it reaches one.
func TestDenialByGossip(t *testing.T) {
	t.Parallel() // it mostly waits
	n := newNetwork(t, lab.DefaultAgents)
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute, Place: n.place})
	clients := clientsOf(t, l)
	core, outside := []string{}, []string{}
	members, err := clients["a1"].Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.Core == "none" {
			outside = append(outside, m.Name)
		} else {
			core = append(core, m.Name)
		}
	}
	if len(core) != 3 || len(outside) != 2 {
		t.Fatalf("the core is %q", core)
	}
	far, near := outside[0], outside[1]
	eve := labOperator(t, clients[near], "eve")
	dial, mesh := n.dialFrom(far), n.addr(far)+":8310"
	refused := func(want bool) func(context.Context) error {
		return func(context.Context) error {
			conn, err := asOperator(dial, mesh, eve)
			if err == nil {
				_ = conn.Close()
			}
			if (err != nil) != want {
				return fmt.Errorf("refused: %v (%w)", !want, err)
			}
			return nil
		}
	}
	eventually(t, 10*time.Second, "the far agent knows the operator", refused(false))
	deny := func() time.Time {
		if _, err := clients[near].SetDeny(t.Context(), "/parley/operator/eve", 0, "a test"); err != nil {
			t.Fatal(err)
		}
		return time.Now()
	}
	knows := func() uint64 {
		s, err := clients[far].Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Digest.Revision
	}

	n.cutBoth([]string{far}, core)
	eventually(t, 20*time.Second, "the far agent hears nothing of the core", func(ctx context.Context) error {
		before := knows()
		if _, err := clients[near].AddEvent(ctx, "something that every agent follows"); err != nil {
			return err
		}
		hold(time.Second)
		if knows() != before {
			return errors.New("it follows")
		}
		return nil
	})
	conn, err := asOperator(dial, mesh, eve)
	if err != nil {
		t.Fatal(err)
	}
	ended, before := endOf(conn), knows() // an end by itself comes after 15 s of silence
	answered := deny()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the far agent holds the connection of a denied operator")
	}
	t.Logf("cut off from the core: the open connection ended %s after the answer", time.Since(answered).Round(time.Millisecond))
	eventually(t, time.Second, "and another one is refused", refused(true))
	if now := knows(); now != before {
		t.Errorf("its state went from revision %d to %d, so nothing was tested", before, now)
	}
	if err := clients[near].RemoveDeny(t.Context(), "/parley/operator/eve"); err != nil {
		t.Fatal(err)
	}
	answered = time.Now()
	eventually(t, 15*time.Second, "the removal is heard", refused(false))
	t.Logf("its removal was heard after %s", time.Since(answered).Round(time.Millisecond))

	n.cutBoth([]string{far}, []string{near})
	hold(2 * time.Second) // what is under way arrives
	deny()
	hold(10 * time.Second)
	if err := refused(false)(t.Context()); err != nil {
		t.Errorf("control: who reaches nobody knows of the denial: %v", err)
	}
	n.mend(far, near, core) // not for a moment with the core in reach: that would tell it
	healed := time.Now()
	eventually(t, 30*time.Second, "with the other agent in reach again it hears", refused(true))
	t.Logf("heard %s after the link to the other agent came back", time.Since(healed).Round(time.Millisecond))
	if now := knows(); now != before {
		t.Errorf("its state went from revision %d to %d, so nothing was tested", before, now)
	}
}

// labOperator makes an operator of a lab.
func labOperator(t *testing.T, c *client.Client, name string) *client.Identity {
	t.Helper()
	id, err := client.NewIdentity(filepath.Join(t.TempDir(), name), "lab.parley.test", name)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := id.Request()
	if err != nil {
		t.Fatal(err)
	}
	svid, err := c.AddOperator(t.Context(), csr, "discovery", false)
	if err == nil {
		err = id.Take(svid)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

type dialer = func(network, addr string) (net.Conn, error)

// asOperator opens a connection of an operator to a mesh port, up to where requests may begin. The error is that it is refused.
func asOperator(dial dialer, addr string, id *client.Identity) (net.Conn, error) {
	raw, err := dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, id.TLS("parley-rpc/1"))
	hello := make([]byte, 25)
	hello[0] = 1 // the greeting of who lives in no epoch (transport/WIRE.md)
	err = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if err == nil {
		_, err = conn.Write(hello)
	}
	if err == nil {
		_, err = io.ReadFull(conn, hello)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// operatorConns opens one to each agent of a lab, once that knows the operator. Each channel is closed with its connection.
func operatorConns(t *testing.T, l *lab.Lab, id *client.Identity, dial dialer) map[string]<-chan struct{} {
	t.Helper()
	ended := make(map[string]<-chan struct{})
	for _, a := range l.Agents {
		eventually(t, 10*time.Second, a.Name+" takes a connection of "+id.Name(), func(context.Context) error {
			conn, err := asOperator(dial, a.Mesh, id)
			if err == nil {
				t.Cleanup(func() { _ = conn.Close() })
				ended[a.Name] = endOf(conn)
			}
			return err
		})
	}
	return ended
}

func endOf(conn net.Conn) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, conn)
	}()
	return ended
}

// dialFrom dials from a host of the network.
func (n *network) dialFrom(host string) dialer {
	return func(network, addr string) (conn net.Conn, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and never unlocks it: the thread ends with the goroutine, and with it its place in the namespace
			space, openErr := os.Open(filepath.Join(netnsDir, n.ns(host)))
			if openErr != nil {
				err = openErr
				return
			}
			defer space.Close()                                                   //nolint:errcheck // it was read
			if err = unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err == nil { //nolint:gosec // a descriptor
				conn, err = net.DialTimeout(network, addr, 5*time.Second)
			}
		}()
		<-done
		return conn, err
	}
}
