package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/state"
)

// inHaste makes a minute last two seconds for whatever watches an agent.
var inHaste = map[string]string{"ops.time_scale": "30"}

// TestCanaryLost: an agent that remembers a canary which the log does not have pages within 20 s, and tells the timeline
// that no recovery did it. The control is the same lab before, where all agents remember canaries, and the other agents
// after it: nothing is lost.
func TestCanaryLost(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 4, ReplaceAfter: 10 * time.Minute, Settings: inHaste})
	clients := clientsOf(t, l)
	whole(t, clients)
	for _, a := range l.Agents {
		remembers(t, a, 3)
		quiet(t, a)
	}
	if events := lostCanaries(t, clients["a1"]); len(events) > 0 {
		t.Fatalf("control: %+v", events)
	}
	planted := named(t, l, agentInRole(t, clients, "none"))
	kill(t, l, planted.Name)
	book := canariesOf(t, planted)
	never := book.Seen[len(book.Seen)-1]
	never.Index++
	never.At++
	book.Seen = append(book.Seen, never)
	text, err := json.Marshal(book)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	file := hex.EncodeToString(sum[:]) + "\n" + string(text)
	if err := os.WriteFile(filepath.Join(planted.DataDir, "canaries"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	restart(t, l, planted.Name)
	fires(t, planted, "canary-lost", 20*time.Second)
	eventually(t, 20*time.Second, "the event", func(context.Context) error {
		events := lostCanaries(t, clients["a1"])
		if len(events) != 1 || events[0].Node != planted.Name || !strings.Contains(events[0].Message, fmt.Sprintf("1 canaries that were acknowledged are gone, the first at index %d", never.Index)) ||
			!strings.Contains(events[0].Message, "the core has lost them") {
			return fmt.Errorf("%+v", events)
		}
		return nil
	})
	for _, a := range l.Agents {
		if a != planted {
			quiet(t, a)
		}
	}
	verifyFails(t, "data-loss", "canaries-kept", planted)
}

// TestCanaryAfterARestore: a restore that undoes acknowledged writes is told of by those who remember them, with the epoch
// that gave them up.
func TestCanaryAfterARestore(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute, Settings: inHaste})
	clients := clientsOf(t, l)
	whole(t, clients)
	victim := named(t, l, agentInRole(t, clients, "leader"))
	file := filepath.Join(t.TempDir(), "b.parley")
	parley(t, "snapshot", "save", file, "--addr", victim.Addr()).mustWork(t)
	before := len(canariesOf(t, victim).Seen)
	remembers(t, victim, before+2)
	for _, a := range l.Agents {
		kill(t, l, a.Name)
	}
	parley(t, "snapshot", "restore", file, "--data-dir", victim.DataDir, "--yes", "--expect", ".epoch==2").mustWork(t)
	restart(t, l, victim.Name)
	fires(t, victim, "canary-lost", 30*time.Second)
	eventually(t, 20*time.Second, "the event", func(context.Context) error {
		for _, e := range lostCanaries(t, clients[victim.Name]) {
			if e.Node == victim.Name && strings.Contains(e.Message, "the recovery into epoch 2 gave them up") {
				return nil
			}
		}
		return errors.New("the victim has not told of it")
	})
}

// canaryBook is the file of an agent.
type canaryBook struct {
	Seen []state.Canary `json:"seen"`
	Lost []any          `json:"lost"`
}

// canariesOf reads the file of an agent; an empty book while there is none.
func canariesOf(t *testing.T, a *lab.Agent) (b canaryBook) {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(a.DataDir, "canaries"))
	if errors.Is(err, os.ErrNotExist) {
		return b
	}
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := bytes.Cut(file, []byte("\n"))
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// remembers waits until an agent remembers so many canaries.
func remembers(t *testing.T, a *lab.Agent, count int) {
	t.Helper()
	eventually(t, 30*time.Second, "canaries on "+a.Name, func(context.Context) error {
		if b := canariesOf(t, a); len(b.Seen) < count {
			return fmt.Errorf("it remembers %d, want %d", len(b.Seen), count)
		}
		return nil
	})
}

// quiet wants an agent that misses no canary.
func quiet(t *testing.T, a *lab.Agent) {
	t.Helper()
	parley(t, "alerts", "--addr", a.Addr(), "--expect", `any(.[]; .id == "canary-lost" and .state == "ok")`).mustWork(t)
}

func lostCanaries(t *testing.T, c *client.Client) []client.TimelineEvent {
	t.Helper()
	events, err := c.Events(t.Context(), client.EventOptions{Kind: "canary-lost"})
	if err != nil {
		t.Fatal(err)
	}
	return events
}
