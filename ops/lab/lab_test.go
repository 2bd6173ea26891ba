package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "init" || os.Args[1] == "agent") {
		fakeMain(os.Args[1:])
		return
	}
	os.Exit(m.Run())
}

func start(t *testing.T, opts Options) *Lab {
	t.Helper()
	l, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// A lab comes up, describes itself, survives kill and restart of an agent, and leaves nothing behind.
func TestLab(t *testing.T) {
	var lines []string
	l := start(t, Options{Agents: 3, Progress: func(line string) { lines = append(lines, line) }})
	if len(lines) != 3 || lines[1] != "a2 to a3 join with a token" {
		t.Errorf("progress: got %q", lines)
	}
	checkRecord(t, l)
	checkSecrets(t, l)
	for _, r := range l.Observe(t.Context()) {
		want := Row{Name: r.Name, State: "ready", Core: "voter", Leader: "a1", Expires: fakeExpires, Mesh: r.Mesh}
		if r.Name == "a1" {
			want.Core = "leader"
		}
		if r != want {
			t.Errorf("row: got %+v, want %+v", r, want)
		}
	}

	a2, err := l.Agent("a2")
	if err != nil {
		t.Fatal(err)
	}
	before := a2.Pid()
	if err := l.Kill("a2", syscall.SIGKILL); err != nil || a2.Running() {
		t.Fatalf("kill: %v, running %t", err, a2.Running())
	}
	if r := l.Observe(t.Context())[1]; r.State != "signal: killed" {
		t.Errorf("state of a killed agent: got %q", r.State)
	}
	if err := l.Kill("a2", syscall.SIGTERM); err != nil {
		t.Errorf("a signal to one that has ended: %v", err)
	}
	if err := l.Restart(t.Context(), "a2"); err != nil || !a2.Running() || a2.Pid() == before {
		t.Errorf("restart: %v, running %t, pid %d, was %d", err, a2.Running(), a2.Pid(), before)
	}
	checkRecord(t, l)

	// A stopped process neither answers nor keeps Stop from ending it.
	if err := l.Kill("a3", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, a := range l.Agents {
		if a.Running() {
			t.Errorf("%s still runs", a.Name)
		}
	}
	if _, err := os.Stat(l.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory: got %v, want not exist", err)
	}
}

func checkRecord(t *testing.T, l *Lab) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(l.Dir, "lab.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	if err := json.Unmarshal(text, &rows); err != nil || len(rows) != len(l.Agents) {
		t.Fatalf("lab.json: %v, %d rows, want %d", err, len(rows), len(l.Agents))
	}
	for i, row := range rows {
		a := l.Agents[i]
		want := map[string]any{"name": fmt.Sprintf("a%d", i+1), "pid": float64(a.Pid()), "data_dir": a.DataDir,
			"admin": a.Admin, "http": a.HTTP, "dns": a.DNS, "mesh": a.Mesh}
		for key, value := range want {
			if row[key] != value {
				t.Errorf("lab.json %s.%s: got %v, want %v", a.Name, key, row[key], value)
			}
		}
		if argv, ok := row["argv"].([]any); !ok || len(argv) != len(a.Argv) || argv[1] != "agent" {
			t.Errorf("lab.json %s.argv: got %v, want %v", a.Name, row["argv"], a.Argv)
		}
	}
}

// The token is in a file that only this user reads, and on no command line.
func checkSecrets(t *testing.T, l *Lab) {
	t.Helper()
	info, err := os.Stat(l.tokenFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("token file: %v, %v", info, err)
	}
	for _, a := range l.Agents {
		if slices.ContainsFunc(a.Argv, func(arg string) bool { return strings.Contains(arg, fakeToken) }) {
			t.Errorf("%s has the token among its arguments", a.Name)
		}
	}
}

// An agent that does not start fails the lab with the end of its log, and everything is cleaned up.
func TestStartFails(t *testing.T) {
	for _, tt := range []struct{ fail, want string }{
		{"init", "a1: init ended with exit status 1; the end of"},
		{"a1", "a1: the agent ended with exit status 1; the end of"},
		{"a2", "a2: the agent ended with exit status 1; the end of"},
	} {
		t.Run(tt.fail, func(t *testing.T) {
			t.Setenv("FAKE_FAIL", tt.fail)
			dir := filepath.Join(t.TempDir(), "lab")
			_, err := Start(t.Context(), Options{Agents: 2, Dir: dir})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "cannot: made to fail") {
				t.Errorf("got %v, want %q and the log's last line", err, tt.want)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory: got %v, want not exist", err)
			}
		})
	}
}

// A cancelled start ends what it has started.
func TestStartCancelled(t *testing.T) {
	t.Setenv("FAKE_FAIL", "never ready")
	ctx, cancel := context.WithCancel(t.Context())
	var once sync.Once
	_, err := Start(ctx, Options{Agents: 1, Progress: func(string) {
		once.Do(func() { time.AfterFunc(300*time.Millisecond, cancel) })
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}

func TestOptions(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		opts Options
		want string
	}{
		{"too many agents", Options{Agents: MaxAgents + 1}, "a lab has 1 to 100 agents"},
		{"no agents", Options{Agents: -1}, "a lab has 1 to 100 agents"},
		{"a directory in use", Options{Dir: full}, "is not empty"},
		{"a path too long for sockets", Options{Dir: "/tmp/" + strings.Repeat("x", 100)}, "bytes too long"},
	} {
		if _, err := Start(t.Context(), tt.opts); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// Two labs at once get different blocks, and a block is free again after its lab.
func TestBlocks(t *testing.T) {
	first, err := takeBlock(3)
	if err != nil {
		t.Fatal(err)
	}
	second, err := takeBlock(3)
	if err != nil {
		t.Fatal(err)
	}
	if first.place(0).Mesh == second.place(0).Mesh {
		t.Errorf("both have %+v", first.place(0))
	}
	again := &block{a: first.a, b: first.b}
	if err := again.take(3); err == nil {
		t.Error("a claimed block could be taken")
	}
	first.release()
	if err := again.take(3); err != nil {
		t.Errorf("after its release: %v", err)
	}
	again.release()

	// A port that some other program holds makes the block unusable.
	other, err := net.ListenPacket("udp", again.place(2).DNS)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.take(3); err == nil {
		t.Error("a block with a taken port could be taken")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	second.release()
}

// Settings reach every agent, its own come after them, and a place of the caller's choice replaces the block.
func TestArguments(t *testing.T) {
	dir := t.TempDir()
	l, err := prepare(Options{Binary: "/bin/parley", Agents: 2, Dir: dir, ReplaceAfter: time.Second,
		Settings: map[string]string{"log.level": "debug", "core.tick": "20ms"},
		Own:      func(i int) map[string]string { return map[string]string{"backup.keep": fmt.Sprint(i + 1)} },
		Place: func(i int) Place {
			return Place{Mesh: fmt.Sprintf("10.0.0.%d:8310", i+1), HTTP: "127.0.0.1:8500", DNS: "127.0.0.1:8600",
				Wrap: []string{"ip", "netns", "exec", fmt.Sprintf("n%d", i+1)}}
		}})
	if err != nil {
		t.Fatal(err)
	}
	want := "ip netns exec n2 /bin/parley agent --data-dir " + dir + "/a2/data --name a2 --zone z2 --bind 10.0.0.2:8310" +
		" --http 127.0.0.1:8500 --dns 127.0.0.1:8600 --http-anonymous operator --set gossip.profile=fast" +
		" --set core.replace_after=1s --set core.tick=20ms --set log.level=debug --set backup.keep=2 --join 10.0.0.1:8310 --token-file " + dir + "/token"
	if got := strings.Join(l.Agents[1].Argv, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Who works with a lab asks an agent that outlives what is killed first. PARLEY_ADDR was once the founder's, which leads:
// after its kill every command failed.
func TestFront(t *testing.T) {
	for _, tt := range []struct {
		cores []string
		want  int
	}{
		{[]string{"leader", "voter", "voter", "none", "none"}, 4},
		{[]string{"none", "voter", "leader", "voter", ""}, 0},
		{[]string{"leader", "voter", "learner"}, 2},
		{[]string{"voter", "voter", "leader"}, 1},
		{[]string{"leader"}, 0},
		{[]string{"", "", ""}, 0},
	} {
		var rows []Row
		for _, core := range tt.cores {
			rows = append(rows, Row{Core: core})
		}
		if got := front(rows); got != tt.want {
			t.Errorf("%q: got agent %d, want %d", tt.cores, got, tt.want)
		}
	}
}

func TestExec(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(self)) // a relative path of the program holds for agents too
	l := start(t, Options{Agents: 1, Binary: "./" + filepath.Base(self)})
	for _, tt := range []struct {
		command string
		code    int
		out     string
	}{
		{"exit 0", 0, ""},
		{"exit 7", 7, ""},
		{"kill -9 $$", 137, ""},
		{"test -x \"$(command -v parley)\" && parley init --data-dir $PARLEY_LAB_DIR/x", 0, ""},
		{"echo $PARLEY_ADDR $PARLEY_LAB_DIR; cat", 0, l.Agents[0].Addr() + " " + l.Dir + "\ninput"},
	} {
		var out strings.Builder
		code, err := l.Exec(t.Context(), tt.command, Streams{In: strings.NewReader("input"), Out: &out, Err: &out})
		if err != nil || code != tt.code || out.String() != tt.out {
			t.Errorf("%s: got %d, %v, %q, want %d, %q", tt.command, code, err, out.String(), tt.code, tt.out)
		}
	}
}

// A command that is still running when the lab is told to stop is ended, with what it started.
func TestExecCancelled(t *testing.T) {
	l := start(t, Options{Agents: 1})
	ctx, cancel := context.WithCancel(t.Context())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = r.Read(make([]byte, 1)) // it is up
		cancel()
	}()
	code, err := l.Exec(ctx, "sleep 100 & echo up; wait", Streams{Out: w, Err: w})
	if err != nil || code != 128+int(syscall.SIGTERM) {
		t.Errorf("got %d, %v, want %d", code, err, 128+int(syscall.SIGTERM))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// The pipe ends only when nobody holds it: sleep is gone too.
	if rest, err := io.ReadAll(r); err != nil {
		t.Errorf("read after the end: %q, %v", rest, err)
	}
}
