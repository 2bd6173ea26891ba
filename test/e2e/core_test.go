package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestCoreShrinksAndGrows: members that are taken out of the core while they live notice, serve
// linearizable reads as any agent outside does, and come in again when they are wanted. Before, they kept
// their old Raft id for ever: nothing grew again, and reads through them took 10 s to fail.
func TestCoreShrinksAndGrows(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 5, Core: true, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	leader, voter := agentInRole(t, clients, "leader"), agentInRole(t, clients, "voter")

	t.Log("take the grant of", voter)
	if err := clients[leader].AllowCore(t.Context(), voter, false); err != nil {
		t.Fatal(err)
	}
	outside(t, clients[voter], voter)
	whole(t, clients)
	reads(t, clients)
	if err := clients[voter].AllowCore(t.Context(), voter, true); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 5, 3, 1, 3} {
		t.Log("core size", size)
		if err := clients[voter].SetCoreSize(t.Context(), size); err != nil {
			t.Fatal(err)
		}
		sized(t, clients, size)
		reads(t, clients)
	}
	for _, a := range l.Agents {
		if n := strings.Count(logOf(t, a), "raft connection closed"); n > 20 {
			t.Errorf("%s logs %d closed connections", a.Name, n)
		}
	}
}

// sized waits until every agent sees a core of that many healthy voters and nobody else in it.
func sized(t *testing.T, clients map[string]*client.Client, size int) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("a core of %d", size), func(ctx context.Context) error {
		for name, c := range clients {
			core, err := c.Core(ctx)
			if err != nil {
				return err
			}
			healthy := !slices.ContainsFunc(core.Voters, func(m client.CoreMember) bool { return !m.Healthy })
			if core.Leader == nil || len(core.Voters) != size || len(core.Learners) != 0 || !healthy {
				return fmt.Errorf("%s sees leader %v, voters %v, learners %v", name, core.Leader, core.Voters, core.Learners)
			}
		}
		return nil
	})
}

// reads wants a write through one agent to be read through each, soon.
func reads(t *testing.T, clients map[string]*client.Client) {
	t.Helper()
	value := []byte(time.Now().String())
	for name, c := range clients {
		eventually(t, 5*time.Second, "a write through "+name, func(ctx context.Context) error {
			_, err := c.Put(ctx, "reads", value, client.PutOptions{})
			return err
		})
		break
	}
	for name, c := range clients {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		pair, err := c.Get(ctx, "reads", client.ReadOptions{})
		cancel()
		if err != nil || string(pair.Value) != string(value) {
			t.Errorf("read through %s: %q, %v", name, pair.Value, err)
		}
	}
}

// outside waits until an agent itself says that it is outside the core.
func outside(t *testing.T, c *client.Client, name string) {
	t.Helper()
	eventually(t, 20*time.Second, name+" is outside the core", func(ctx context.Context) error {
		members, err := c.Members(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(members, func(m client.Member) bool { return m.Name == name })
		if i < 0 || members[i].Core != "none" {
			return fmt.Errorf("it says %+v", members)
		}
		return nil
	})
}

func logOf(t *testing.T, a *lab.Agent) string {
	t.Helper()
	raw, err := os.ReadFile(a.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// logs waits for a line in an agent's log.
func logs(t *testing.T, a *lab.Agent, line string) {
	t.Helper()
	eventually(t, 20*time.Second, a.Name+" logs "+line, func(context.Context) error {
		if text := logOf(t, a); !strings.Contains(text, line) {
			return fmt.Errorf("it logs\n%s", text)
		}
		return nil
	})
}

// TestLearnerWithoutLeader: a learner whose leader died says that nobody leads, instead of showing the
// dead one as leading for ever; and one that was frozen while its id was retired finds out.
func TestLearnerWithoutLeader(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 2, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	learning := func(ctx context.Context) error {
		core, err := clients["a2"].Core(ctx)
		if err == nil && (core.Leader == nil || len(core.Learners) != 1 || !core.Learners[0].Healthy) {
			err = fmt.Errorf("leader %v, learners %v", core.Leader, core.Learners)
		}
		return err
	}
	eventually(t, 20*time.Second, "a2 learns", learning)

	signal(t, l, "a2", syscall.SIGSTOP)
	if err := clients["a1"].AllowCore(t.Context(), "a2", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "a2 is out", func(ctx context.Context) error {
		core, err := clients["a1"].Core(ctx)
		if err == nil && (len(core.Learners) != 0 || !strings.Contains(logOf(t, l.Agents[0]), "a2 has left the core")) {
			err = fmt.Errorf("learners %v", core.Learners)
		}
		return err
	})
	signal(t, l, "a2", syscall.SIGCONT)
	outside(t, clients["a2"], "a2")
	reads(t, clients)
	if err := clients["a2"].AllowCore(t.Context(), "a2", true); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "a2 learns again", learning)

	kill(t, l, "a1")
	eventually(t, 10*time.Second, "a2 sees nobody lead", func(ctx context.Context) error {
		status, err := clients["a2"].Status(ctx)
		if err == nil && (status.Core.Leader != nil || status.Ready) {
			err = fmt.Errorf("leader %v, ready %t", status.Core.Leader, status.Ready)
		}
		return err
	})
	if _, text, err := clients["a2"].Ready(t.Context()); err != nil || !strings.Contains(text, "[-]writes") {
		t.Errorf("readiness: %v\n%s", err, text)
	}
}

func signal(t *testing.T, l *lab.Lab, name string, sig syscall.Signal) {
	t.Helper()
	if err := l.Kill(name, sig); err != nil {
		t.Fatal(err)
	}
}

// TestReplacedMemberReturns: a voter that was replaced while it was down gives its Raft id up once it is
// told, and never runs it again. Before, it started the id anew with an empty log for as long as its View
// was from before the retirement, and such an id would vote.
func TestReplacedMemberReturns(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 5, ReplaceAfter: time.Second})
	clients := clientsOf(t, l)
	whole(t, clients)
	gone := named(t, l, agentInRole(t, clients, "leader"))
	id := raftIDOf(t, clients[gone.Name], gone.Name)
	kill(t, l, gone.Name)
	others := clientsOf(t, l)
	delete(others, gone.Name)
	eventually(t, 30*time.Second, gone.Name+" is replaced", func(ctx context.Context) error {
		for name, c := range others {
			core, err := c.Core(ctx)
			if err != nil {
				return err
			}
			is := func(m client.CoreMember) bool { return m.Name == gone.Name }
			if core.Leader == nil || len(core.Voters) != 3 || slices.ContainsFunc(core.Voters, is) {
				return fmt.Errorf("%s sees the voters %v", name, core.Voters)
			}
		}
		return nil
	})
	before := len(logOf(t, gone))
	restart(t, l, gone.Name)
	logs(t, gone, "no longer part of the core (raft_id="+id+")")
	outside(t, clients[gone.Name], gone.Name)
	reads(t, clients)
	if text := logOf(t, gone)[before:]; strings.Count(text, "taking part in the core (raft_id="+id+")") > 1 { // it may find out before it begins
		t.Errorf("%s ran its old Raft id again:\n%s", gone.Name, text)
	}
	if raw, err := os.ReadFile(filepath.Join(gone.DataDir, "cluster.toml")); err != nil || !strings.Contains(string(raw), "past_raft_id = "+id) {
		t.Errorf("cluster.toml: %v\n%s", err, raw)
	}
}

// raftIDOf is the Raft id of a voter; those of a young cluster have one digit.
func raftIDOf(t *testing.T, c *client.Client, name string) string {
	t.Helper()
	core, err := c.Core(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range core.Voters {
		if v.Name == name {
			return v.RaftID
		}
	}
	t.Fatalf("%s is not among the voters %v", name, core.Voters)
	return ""
}

// TestCoreMovedWhileAway: an agent that was away while every core member that it knew left the core finds
// the new one. Before, it asked the old members only, and showed the state of before for ever.
func TestCoreMovedWhileAway(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 2, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	eventually(t, 20*time.Second, "a2 learns", func(ctx context.Context) error { // to leave the core it has to be in it
		core, err := clients["a1"].Core(ctx)
		if err == nil && len(core.Learners) != 1 {
			err = fmt.Errorf("learners %v", core.Learners)
		}
		return err
	})
	if err := clients["a1"].SetCoreSize(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	logs(t, l.Agents[0], "a2 has left the core")
	sized(t, clients, 1)
	_, token := newToken(t, l, client.TokenSpec{Node: "away", Role: "local"})
	dir := filepath.Join(shortDir(t), "d")
	args := freshAgent(t, dir, "away", "--join", l.Agents[0].Mesh, "--token-file", inFile(t, token.Token))
	away := startAgent(t, args...)
	eventually(t, 20*time.Second, "it keeps a copy of the state, in which a1 alone is in the core", func(context.Context) error {
		_, err := os.Stat(filepath.Join(dir, "view", "public.snap"))
		return err
	})
	away.stop()
	if err := clients["a1"].AllowCore(t.Context(), "away", false); err != nil {
		t.Fatal(err)
	}
	if err := clients["a1"].AllowCore(t.Context(), "a1", false); err != nil {
		t.Fatal(err)
	}
	logs(t, l.Agents[0], "no longer part of the core")

	startAgent(t, args...)
	c, err := client.New("unix://" + filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	eventually(t, 15*time.Second, "it has the state of now", func(ctx context.Context) error {
		mine, err := c.Status(ctx)
		if err != nil {
			return err
		}
		theirs, err := clients["a2"].Status(ctx)
		if err == nil && (!mine.Ready || mine.Digest.Public == "" || mine.Digest.Public != theirs.Digest.Public) {
			err = fmt.Errorf("ready %t, it has %+v, a2 %+v", mine.Ready, mine.Digest, theirs.Digest)
		}
		return err
	})
	clients["away"] = c
	reads(t, clients)
}

// TestSmallDiskStaysOutside: an agent whose disk has no room for a log is not taken into the core, works
// all the same and says why; with room it comes in by itself. Before, it ended, at each start again.
func TestSmallDiskStaysOutside(t *testing.T) {
	t.Parallel() // it mostly waits
	mayMount(t)
	l := startLab(t, lab.Options{Agents: 1, ReplaceAfter: 10 * time.Minute})
	_, token := newToken(t, l, client.TokenSpec{Node: "small"})
	dir := filepath.Join(shortDir(t), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=40m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	small := startAgent(t, freshAgent(t, dir, "small", "--join", l.Agents[0].Mesh, "--token-file", inFile(t, token.Token))...)
	c, err := client.New("unix://" + filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	eventually(t, 20*time.Second, "it says that it has no room", func(ctx context.Context) error {
		_, text, err := c.Ready(ctx)
		if err == nil && (!strings.Contains(text, "[-]core_room") || !strings.Contains(text, "free space on the file system") ||
			!strings.Contains(small.said(), "no room for a log, staying outside the core")) {
			err = fmt.Errorf("readiness: %s\nlog: %s", text, small.said())
		}
		return err
	})
	reads(t, map[string]*client.Client{"a1": clientOf(t, l.Agents[0]), "small": c})
	outside(t, c, "small")

	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=300m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "with room it is taken in", func(ctx context.Context) error {
		core, err := c.Core(ctx)
		if err == nil && (len(core.Learners) != 1 || !core.Learners[0].Healthy) {
			err = fmt.Errorf("learners %v", core.Learners)
		}
		return err
	})
	reads(t, map[string]*client.Client{"a1": clientOf(t, l.Agents[0]), "small": c})
	if n := strings.Count(logOf(t, l.Agents[0]), "step=assign-id"); n != 1 {
		t.Errorf("it was given %d Raft ids, want one when there was room", n)
	}
}

// TestCoreIsSpreadFromTheStart: a lab of five in three zones has its three voters in three zones from the start, and not only
// after its zones have been stable for half an hour. Before, the two that happened to join first were taken.
func TestCoreIsSpreadFromTheStart(t *testing.T) {
	t.Parallel() // it mostly waits
	clients := clientsOf(t, startLab(t, lab.Options{}))
	members, err := clients["a5"].Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	zones := make(map[string][]string)
	for _, m := range members {
		if m.Core == "voter" || m.Core == "leader" {
			zones[m.Zone] = append(zones[m.Zone], m.Name)
		}
	}
	if len(zones) != 3 {
		t.Errorf("voters by zone: %v", zones)
	}
}
