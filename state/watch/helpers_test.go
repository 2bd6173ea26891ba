package watch

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

func newMachine() *state.Machine {
	return state.Genesis(state.GenesisOptions{
		ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "example.test",
		Node: state.Node{
			Name: "a1", HostKey: []byte("host key"), SealKey: make([]byte, state.SealKeyBytes),
		},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{[]byte("root")}},
		Sealed: []byte("sealed"), At: 1 << 16,
	})
}

// core is a machine with the hub that it publishes to.
type core struct {
	t   testing.TB
	m   *state.Machine
	hub *Hub
}

func newCore(t testing.TB, timing Timing) *core {
	m := newMachine()
	return &core{t: t, m: m, hub: NewHubTiming(m.View(), timing)}
}

// apply performs the commands as one entry and publishes it.
func (c *core) apply(commands ...state.Command) state.Touched {
	c.t.Helper()
	encoded := make([][]byte, len(commands))
	for i, command := range commands {
		b, err := state.Encode(state.Envelope{Command: command}, state.Version)
		if err != nil {
			c.t.Fatal(err)
		}
		encoded[i] = b
	}
	index := c.m.View().Index() + 1
	_, touched, err := c.m.Apply(index, 1, clock.Stamp(index)<<16, encoded)
	if err != nil {
		c.t.Fatal(err)
	}
	c.hub.Publish(c.m.View(), touched)
	return touched
}

func put(key, value string) state.Command { return state.Put{Key: key, Value: []byte(value)} }

func role(i int) state.Command {
	roles := policy.Roles()
	return state.NodeSetRole{Node: "a1", Role: roles[i%len(roles)]}
}

// restore replaces the machine by a copy of itself.
func (c *core) restore() {
	c.t.Helper()
	var b bytes.Buffer
	if err := c.m.View().WriteSnapshot(&b); err != nil {
		c.t.Fatal(err)
	}
	if err := c.m.Restore(&b); err != nil {
		c.t.Fatal(err)
	}
	c.hub.Publish(c.m.View(), state.Touched{All: true})
}

func frame(t testing.TB, f Frame) []byte {
	t.Helper()
	b, err := EncodeFrame(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func kinds(frames [][]byte) string {
	names := map[FrameKind]string{
		FrameSnapshotBegin: "begin", FrameSnapshotChunk: "chunk", FrameSnapshotEnd: "end",
		FrameDelta: "delta", FrameHeartbeat: "heartbeat",
	}
	var out []string
	for _, b := range frames {
		out = append(out, names[FrameKind(b[0])])
	}
	return fmt.Sprint(out)
}
