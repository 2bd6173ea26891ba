package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

const (
	damagePage   = 4096
	segmentBytes = 16 << 20 // core.segment_mib of the lab
)

// diskDamage is what a disk does to an agent that does not run.
type diskDamage struct {
	name  string
	what  func(t *testing.T, a *lab.Agent)
	newID bool // it is healed by giving the Raft id up
}

var diskDamages = []diskDamage{
	{name: "one byte flipped", what: func(t *testing.T, a *lab.Agent) { flip(t, segment(t, a, 0), frameFrom(t, segment(t, a, 0), 3)+100) }},
	{name: "512 bytes zeroed", what: func(t *testing.T, a *lab.Agent) { patch(t, segment(t, a, 1), 20*damagePage, make([]byte, 512)) }},
	{name: "4 KiB zeroed", what: func(t *testing.T, a *lab.Agent) {
		path := segment(t, a, -1)
		if fewFrames(t, path) {
			path = segment(t, a, -2)
		}
		patch(t, path, 9*damagePage, make([]byte, damagePage))
	}},
	{name: "zeroed to the end", what: func(t *testing.T, a *lab.Agent) {
		spoilEnd(t, a, func(path string, end int64) {
			from := max(damagePage, end-32*damagePage)
			patch(t, path, from, make([]byte, end-from))
		})
	}},
	{name: "garbage tail", what: func(t *testing.T, a *lab.Agent) {
		spoilEnd(t, a, func(path string, end int64) {
			from := max(damagePage, end-32*damagePage)
			garbage := make([]byte, min(end+2*damagePage, segmentBytes-damagePage)-from)
			_, _ = rand.Read(garbage)
			patch(t, path, from, garbage)
		})
	}},
	{name: "headers of the last segment", what: func(t *testing.T, a *lab.Agent) {
		path := segment(t, a, -1)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		patch(t, path, 0, make([]byte, 512))
		patch(t, path, info.Size()-damagePage, make([]byte, 512))
	}},
	{name: "a lost segment", what: func(t *testing.T, a *lab.Agent) { remove(t, segment(t, a, 1)) }},
	{name: "the anchor lost", what: func(t *testing.T, a *lab.Agent) { remove(t, filepath.Join(a.DataDir, "anchor")) }},
	{name: "every snapshot chunk", what: func(t *testing.T, a *lab.Agent) {
		for _, path := range globbed(t, filepath.Join(a.DataDir, "snap", "chunks", "*")) {
			patch(t, path, 7, []byte("damaged"))
		}
	}},
	{name: "log and anchor lost", newID: true, what: func(t *testing.T, a *lab.Agent) {
		remove(t, filepath.Join(a.DataDir, "anchor"))
		remove(t, filepath.Join(a.DataDir, "wal"))
	}},
}

// spoilEnd damages the end of the log. Of a segment's first frames alone nothing may know when they are the last, as the anchor
// comes a little later: then the segment before loses its end as well.
func spoilEnd(t *testing.T, a *lab.Agent, spoil func(path string, end int64)) {
	t.Helper()
	if fewFrames(t, segment(t, a, -1)) {
		spoil(segment(t, a, -2), framesEnd(t, segment(t, a, -2)))
	}
	spoil(segment(t, a, -1), framesEnd(t, segment(t, a, -1)))
}

func fewFrames(t *testing.T, path string) bool { return framesEnd(t, path) < 64*damagePage }

// TestDamageMatrix: a core of three under writes. One member after the other is killed, its files are damaged, and it is
// started again. Each damage is named in its log and in the timeline, and healed with nobody's help while the writes go
// on; at the end all have the same digest and nothing that was acknowledged is lost.
func TestDamageMatrix(t *testing.T) {
	t.Parallel() // its limits are wide
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute, Settings: map[string]string{"core.segment_mib": "16", "safe_mode.window": killedOften}})
	clients := clientsOf(t, l)
	whole(t, clients)
	load := startWriters(t, l, 4*time.Millisecond)
	for _, damage := range diskDamages {
		fillSegments(t, l, clients, 3)
		began := time.Now()
		victim := named(t, l, agentInRole(t, clients, "voter"))
		before := coreIDOf(t, clients, victim.Name)
		events, err := eventsOf(t.Context(), clients[victim.Name], victim.Name)
		if err != nil {
			t.Fatal(err)
		}
		kill(t, l, victim.Name)
		damage.what(t, victim)
		progress(t, load, 50)
		restart(t, l, victim.Name)
		healedOn(t, clients, victim.Name, events)
		whole(t, clients)
		if after := coreIDOf(t, clients, victim.Name); (after != before) != damage.newID {
			t.Errorf("%s: Raft id %s before and %s after", damage.name, before, after)
		}
		t.Logf("%s: healed on %s within %v", damage.name, victim.Name, time.Since(began).Round(10*time.Millisecond))
		progress(t, load, 50)
	}
	load.end()
	acked, _ := load.count()
	for name, c := range clients {
		missing, err := load.missing(context.Background(), c)
		if err != nil || len(missing) > 0 {
			t.Errorf("read back through %s: error %v, %d of %d acknowledged writes lost: %.10q", name, err, len(missing), acked, missing)
		}
	}
	eventually(t, 10*time.Second, "equal digests", func(ctx context.Context) error { return sameDigest(ctx, clients) })
}

// healedOn waits until the timeline says once more than before that a node found damage, and that it healed it or came back
// under another id.
func healedOn(t *testing.T, clients map[string]*client.Client, node string, before map[string]int) {
	t.Helper()
	eventually(t, 60*time.Second, "damage and healing in the timeline", func(ctx context.Context) error {
		now, err := eventsOf(ctx, clients[node], node)
		if err != nil {
			return err
		}
		more := func(kind string) bool { return now[kind] > before[kind] }
		if more("log-in-doubt") { // the last frame alone: nothing says that it was acknowledged, and all others are asked
			return nil
		}
		if !more("storage-damage") || !more("storage-healed") && !more("raft-id-given-up") {
			return fmt.Errorf("events of %s: %v, before %v", node, now, before)
		}
		return nil
	})
}

// eventsOf counts what was reported about a node, by kind.
func eventsOf(ctx context.Context, c *client.Client, node string) (map[string]int, error) {
	events, err := c.Events(ctx, client.EventOptions{})
	kinds := make(map[string]int)
	for _, e := range events {
		if e.Subject == node && !e.Pending {
			kinds[e.Kind]++
		}
	}
	return kinds, err
}

func coreIDOf(t *testing.T, clients map[string]*client.Client, node string) (id string) {
	t.Helper()
	eventually(t, 20*time.Second, "the Raft id of "+node, func(ctx context.Context) error {
		core, err := clients[node].Core(ctx)
		if err != nil {
			return err
		}
		for _, m := range slices.Concat(core.Voters, core.Learners) {
			if m.Name == node {
				id = m.RaftID
				return nil
			}
		}
		return fmt.Errorf("%s is not in the core", node)
	})
	return id
}

// fillSegments writes until every agent's log has so many segments.
func fillSegments(t *testing.T, l *lab.Lab, clients map[string]*client.Client, segments int) {
	t.Helper()
	value := make([]byte, 300<<10)
	_, _ = rand.Read(value)
	for n := range 1000 {
		full := true
		for _, a := range l.Agents {
			full = full && len(globbed(t, filepath.Join(a.DataDir, "wal", "0*.wal"))) >= segments
		}
		if full {
			return
		}
		if _, err := clients[l.Agents[0].Name].Put(t.Context(), fmt.Sprintf("bulk/%d", n%3), value, client.PutOptions{}); err != nil {
			t.Log(err)
			time.Sleep(100 * time.Millisecond)
		}
	}
	t.Fatal("the logs do not grow")
}

// segment is the path of an agent's log segment, counted from the oldest, or from the newest when n is negative.
func segment(t *testing.T, a *lab.Agent, n int) string {
	t.Helper()
	paths := globbed(t, filepath.Join(a.DataDir, "wal", "0*.wal"))
	if n < 0 {
		n += len(paths)
	}
	if n >= len(paths) {
		t.Fatalf("%s has %d segments", a.Name, len(paths))
	}
	return paths[n]
}

func globbed(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// framesEnd is where the frames of a segment that was not used before end.
func framesEnd(t *testing.T, path string) int64 {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	number := data[40:48] // of the segment, and in each of its frames
	end := int64(len(data)) - damagePage
	for end > damagePage && !(bytes.HasPrefix(data[end-damagePage:], []byte("PLF1")) && bytes.Equal(data[end-damagePage+8:end-damagePage+16], number)) {
		end -= damagePage
	}
	return end
}

// frameFrom is where the first frame from a page on begins: behind its end a page holds what nobody reads.
func frameFrom(t *testing.T, path string, page int64) int64 {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for offset := page * damagePage; offset < int64(len(data)); offset += damagePage {
		if bytes.HasPrefix(data[offset:], []byte("PLF1")) {
			return offset
		}
	}
	t.Fatalf("no frame in %s from page %d on", path, page)
	return 0
}

func flip(t *testing.T, path string, offset int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	patch(t, path, offset, []byte{data[offset] ^ 0x10})
}

func patch(t *testing.T, path string, offset int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // it was synced
	if _, err := f.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// TestTwoDamagedMembersWait: when two of three lose their logs at once neither may give its Raft id up: together with it the
// quorum would go. Both keep what they have, and wait. The control is the last damage of TestDamageMatrix.
func TestTwoDamagedMembersWait(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	leader := agentInRole(t, clients, "leader")
	var victims []*lab.Agent
	before := map[string]string{}
	for _, a := range l.Agents {
		if a.Name == leader {
			continue
		}
		victims = append(victims, a)
		text, err := os.ReadFile(filepath.Join(a.DataDir, "cluster.toml"))
		if err != nil {
			t.Fatal(err)
		}
		before[a.Name] = string(text)
		kill(t, l, a.Name)
	}
	for _, a := range victims {
		remove(t, filepath.Join(a.DataDir, "anchor"))
		remove(t, filepath.Join(a.DataDir, "wal"))
		restart(t, l, a.Name)
	}
	for range 20 {
		time.Sleep(500 * time.Millisecond) // that something never happens takes its time
		for _, a := range victims {
			if text, err := os.ReadFile(filepath.Join(a.DataDir, "cluster.toml")); err != nil || string(text) != before[a.Name] {
				t.Fatalf("%s gave its Raft id up: %s, %v", a.Name, text, err)
			}
			if !a.Running() {
				t.Fatalf("%s ended", a.Name)
			}
		}
	}
	core, err := clients[leader].Core(t.Context())
	if err != nil || core.Leader != nil {
		t.Errorf("a leader without a quorum: %+v, %v", core, err)
	}
}
