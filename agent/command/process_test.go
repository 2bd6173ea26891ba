package command

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
)

// A log line reads like a sentence: the logger's own facts sorted, the message's in order, in quotes
// where they hold a space.
func TestConsoleLog(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(config.Log{Level: "info", Format: "console"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	log = log.Named("consensus").With(zap.String("node", "a1"), zap.String("addr", "127.0.0.1:8310"))
	log.Info("became leader", zap.Uint64("term", 3), zap.Duration("duration", 1234567*time.Nanosecond),
		zap.Error(errors.New("no route")), zap.String("path", ""))
	log.Debug("not shown")
	log.With(zap.Int("count", 2)).Warn("child")
	log.Error("parent is unchanged by it")
	want := `info  consensus: became leader (addr=127.0.0.1:8310 node=a1 term=3 duration=1.235ms error="no route" path="")
warn  consensus: child (addr=127.0.0.1:8310 count=2 node=a1)
error consensus: parent is unchanged by it (addr=127.0.0.1:8310 node=a1)
`
	var got strings.Builder
	for line := range strings.Lines(out.String()) {
		got.WriteString(line[len("2006-01-02 15:04:05.000 "):])
	}
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

func TestJSONLog(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(config.Log{Level: "warn", Format: "json"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("not shown")
	log.Warn("disk is slow", zap.Duration("duration", time.Second))
	for _, want := range []string{`"level":"warn"`, `"msg":"disk is slow"`, `"duration":"1s"`, `"time":"2`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %s, want %s in it", out.String(), want)
		}
	}
	if strings.Count(out.String(), "\n") != 1 {
		t.Errorf("got %q, want one line", out.String())
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := notify(func(string) string { return path }, "READY=1"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, err := socket.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("systemd got %q, %v, want READY=1", buf[:n], err)
	}
	if err := notify(func(string) string { return "" }, "READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	if err := notify(func(string) string { return path + "x" }, "READY=1"); err == nil {
		t.Error("to a socket that is not there: got no error")
	}
}

// The first signal asks the agent to stop, a hangup does not, and a second one does not wait for it,
// unless it follows so closely that it is the first one once more.
func TestSupervise(t *testing.T) {
	type sent struct {
		after  time.Duration
		signal os.Signal
	}
	failed := errors.New("disk is gone")
	for _, tt := range []struct {
		name    string
		signals []sent
		takes   time.Duration // how long the agent takes to stop; it ends at once without signals
		end     error
		stops   int
		want    string
	}{
		{"the agent ends by itself", nil, 0, failed, 0, "disk is gone"},
		{"a signal stops it", []sent{{0, syscall.SIGTERM}}, 0, nil, 1, ""},
		{"a hangup alone does not", []sent{{0, syscall.SIGHUP}, {0, syscall.SIGINT}}, 0, failed, 1, "disk is gone"},
		{"a second signal does not wait", []sent{{0, syscall.SIGINT}, {0, syscall.SIGHUP}, {time.Second, syscall.SIGTERM}}, time.Hour, nil, 1, "a second signal"},
		{"a doubled signal waits", []sent{{0, syscall.SIGTERM}, {0, syscall.SIGTERM}}, time.Second, nil, 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				signals, ended := make(chan os.Signal, len(tt.signals)), make(chan error, 1)
				if len(tt.signals) == 0 {
					ended <- tt.end
				}
				go func() {
					for _, s := range tt.signals {
						time.Sleep(s.after)
						signals <- s.signal
					}
				}()
				stops := 0
				err := supervise(signals, ended, zap.NewNop(), func() {
					stops++
					time.AfterFunc(tt.takes, func() { ended <- tt.end })
				})
				got := ""
				if err != nil {
					got = err.Error()
				}
				if stops != tt.stops || !strings.HasPrefix(got, tt.want) || (tt.want == "") != (got == "") {
					t.Errorf("got %d stops and %q, want %d and %q", stops, got, tt.stops, tt.want)
				}
			})
		})
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"/a/b-c": "/a/b-c", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$x": "'$x'",
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("shellQuote(%q): got %s, want %s", in, got, want)
		}
	}
}

func TestFullAddress(t *testing.T) {
	for in, want := range map[string]string{
		"unix:///a": "unix:///a", "/a": "unix:///a", "127.0.0.1:8500": "http://127.0.0.1:8500", "https://h:1": "https://h:1", "rpc://h:1": "rpc://h:1",
		"127.0.0.1": "http://127.0.0.1:8500", "web-1": "http://web-1:8500", "::1": "http://[::1]:8500", "[::1]": "http://[::1]:8500",
		"[::1]:1": "http://[::1]:1", "http://127.0.0.1": "http://127.0.0.1:8500", "http://h:1/": "http://h:1", "http://h/": "http://h:8500",
		"https://h": "https://h", "http://": "http://", "h/path": "http://h/path:8500",
	} {
		if got := fullAddress(in); got != want {
			t.Errorf("fullAddress(%q): got %s, want %s", in, got, want)
		}
	}
}

// A socket that the user may not open is denied (4), not absent (3).
func TestExplainPermission(t *testing.T) {
	for cause, denied := range map[syscall.Errno]bool{syscall.EACCES: true, syscall.ENOENT: false} {
		f := explain(errors.Join(&client.Error{Code: client.CodeNoAgent, Message: "no agent answers"}, cause))
		if got := f.code == exitDenied; got != denied {
			t.Errorf("%v: denied is %t, want %t", cause, got, denied)
		}
	}
}

// Who is not root may look for the agent of a service in the wrong place; the hint says where it answers them.
func TestNoAgentHint(t *testing.T) {
	e := &client.Error{Code: client.CodeNoAgent, Message: "no agent answers at unix:///home/x/admin.sock", Hint: "start it"}
	if got := noAgentHint(e, 1000); got != "start it (if it runs as a service: sudo parley ..., or --addr http://127.0.0.1:8500)" {
		t.Errorf("got %q", got)
	}
	for _, tt := range []struct {
		message, code string
		uid           int
	}{
		{e.Message, e.Code, 0}, {"no agent answers at http://127.0.0.1:8500", e.Code, 1000}, {e.Message, "not_found", 1000},
	} {
		if got := noAgentHint(&client.Error{Code: tt.code, Message: tt.message, Hint: "start it"}, tt.uid); got != "start it" {
			t.Errorf("%+v: got %q", tt, got)
		}
	}
}
