package invocation

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	webUnit = "web.service"
	webPath = "/org/freedesktop/systemd1/unit/web_2eservice"
)

var webRun = []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// asked is a method call as systemd sees it.
type asked struct {
	serial         uint32
	path, sender   string
	first, another string
}

// readCall reads one, with what readMessage passes over.
func readCall(r io.Reader) (asked, error) {
	head := make([]byte, fixedBytes)
	if _, err := io.ReadFull(r, head); err != nil {
		return asked{}, err
	}
	fields, body := binary.LittleEndian.Uint32(head[12:]), binary.LittleEndian.Uint32(head[4:])
	rest := make([]byte, (fields+7)/8*8+body)
	if _, err := io.ReadFull(r, rest); err != nil {
		return asked{}, err
	}
	a := asked{serial: binary.LittleEndian.Uint32(head[8:])}
	for f := (reader{order: binary.LittleEndian, rest: rest[:fields]}); len(f.rest) > 0; {
		f.align(8)
		code := f.byte()
		var value string
		switch f.signature() {
		case "g":
			value = f.signature()
		case "u":
			f.uint32()
		default:
			value = f.text()
		}
		switch code {
		case fieldPath:
			a.path = value
		case 7:
			a.sender = value
		}
	}
	args := reader{order: binary.LittleEndian, rest: rest[(fields+7)/8*8:]}
	if signal := byte(4); (head[1] == kindCall || head[1] == signal) && body > 0 {
		a.first, a.another = args.text(), args.text()
	}
	return a, nil
}

// reply is a message to a caller; order is that of its maker.
func reply(order binary.AppendByteOrder, kind byte, to asked, serial uint32, fields, body []byte) []byte {
	mark := byte('l')
	if order.String() == binary.BigEndian.String() {
		mark = 'B'
	}
	all := []byte{fieldReplyTo, 1, 'u', 0}
	all = order.AppendUint32(all, to.serial)
	if to.sender != "" {
		all = append(pad(all, 8), fieldTo, 1, 's', 0)
		all = append(append(order.AppendUint32(all, uint32(len(to.sender))), to.sender...), 0) //nolint:gosec // a name
	}
	all = append(pad(all, 8), fields...)
	m := order.AppendUint32([]byte{mark, kind, 0, 1}, uint32(len(body)))    //nolint:gosec // a few bytes
	m = order.AppendUint32(order.AppendUint32(m, serial), uint32(len(all))) //nolint:gosec // a few bytes
	return append(pad(append(m, all...), 8), body...)
}

func variant(order binary.AppendByteOrder, id []byte) (fields, body []byte) {
	body = append([]byte{2, 'a', 'y', 0}, order.AppendUint32(nil, uint32(len(id)))...) //nolint:gosec // a few bytes
	return []byte{fieldSignature, 1, 'g', 0, 1, 'v', 0}, append(body, id...)
}

func fault(order binary.AppendByteOrder, name string) []byte {
	all := []byte{fieldErrorName, 1, 's', 0}
	return append(append(order.AppendUint32(all, uint32(len(name))), name...), 0) //nolint:gosec // a name
}

// fakeBus is a bus with systemd on it that answers what a test wants, and counts the questions.
func fakeBus(t *testing.T, answer func(c net.Conn, to asked)) (socket string, questions *atomic.Int64) {
	t.Helper()
	dir, err := os.MkdirTemp("", "bus") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, questions = filepath.Join(dir, "bus"), new(atomic.Int64)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer c.Close() //nolint:errcheck // a test's
				r := bufio.NewReader(c)
				if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "\x00AUTH EXTERNAL ") {
					return
				}
				_, _ = io.WriteString(c, "OK 0123\r\n")
				_, _ = r.ReadString('\n')
				hello, err := readCall(r)
				if err != nil {
					return
				}
				_, _ = c.Write(reply(binary.LittleEndian, kindReturn, hello, 1, nil, nil))
				get, err := readCall(r)
				if err != nil {
					return
				}
				questions.Add(1)
				answer(c, get)
				_, _ = r.ReadByte() // until the other end has enough
			}()
		}
	}()
	return socket, questions
}

func wanted(a asked) bool {
	return a.path == webPath && a.first == "org.freedesktop.systemd1.Unit" && a.another == "InvocationID"
}

// Of answers with the id of the run, "" when there is none to have, and an error when it cannot be known.
func TestOf(t *testing.T) {
	run := func(order binary.AppendByteOrder, id []byte) func(net.Conn, asked) {
		return func(c net.Conn, to asked) {
			fields, body := variant(order, id)
			if wanted(to) {
				_, _ = c.Write(reply(order, kindReturn, to, 2, fields, body))
			}
		}
	}
	refuse := func(name string) func(net.Conn, asked) {
		return func(c net.Conn, to asked) {
			_, _ = c.Write(reply(binary.LittleEndian, kindError, to, 2, fault(binary.LittleEndian, name), nil))
		}
	}
	for what, test := range map[string]struct {
		answer func(net.Conn, asked)
		want   string
		fails  bool
	}{
		"a run":                {run(binary.LittleEndian, webRun), hex.EncodeToString(webRun), false},
		"the other byte order": {run(binary.BigEndian, webRun), hex.EncodeToString(webRun), false},
		"no run":               {run(binary.LittleEndian, nil), "", false},
		"an id of 15 bytes":    {run(binary.LittleEndian, webRun[1:]), "", true},
		"no such unit":         {refuse("org.freedesktop.systemd1.NoSuchUnit"), "", false},
		"no systemd":           {refuse("org.freedesktop.DBus.Error.ServiceUnknown"), "", false},
		"not allowed":          {refuse("org.freedesktop.DBus.Error.AccessDenied"), "", true},
		"it hangs":             {func(net.Conn, asked) {}, "", true},
		"it hangs up":          {func(c net.Conn, _ asked) { _ = c.Close() }, "", true},
		"no message":           {func(c net.Conn, _ asked) { _, _ = io.WriteString(c, strings.Repeat("x", 64)) }, "", true},
		"a message without end": {func(c net.Conn, _ asked) {
			_, _ = c.Write([]byte("l\x02\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\x08\x00\x00\x00"))
		}, "", true},
		"nothing but other news": {func(c net.Conn, to asked) {
			for range maxMessages {
				_, _ = c.Write(reply(binary.LittleEndian, kindReturn, asked{serial: 77}, 3, nil, nil))
			}
			run(binary.LittleEndian, webRun)(c, to)
		}, "", true},
		"after some other news": {func(c net.Conn, to asked) {
			for range maxMessages - 2 {
				_, _ = c.Write(reply(binary.LittleEndian, kindReturn, asked{serial: 77}, 3, nil, nil))
			}
			run(binary.LittleEndian, webRun)(c, to)
		}, hex.EncodeToString(webRun), false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			socket, _ := fakeBus(t, test.answer)
			began := time.Now()
			got, err := New(socket, time.Now).Of(t.Context(), Unit{Name: webUnit})
			if got != test.want || (err != nil) != test.fails {
				t.Errorf("got %q, %v", got, err)
			}
			if took := time.Since(began); took > 20*askWithin {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// Without a bus there is no run, and that is no failure. Who goes away does not wait.
func TestWithoutABus(t *testing.T) {
	a := New(filepath.Join(t.TempDir(), "none"), time.Now)
	if got, err := a.Of(t.Context(), Unit{Name: webUnit, Group: 1}); got != "" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	for range maxAsking {
		a.turns <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Of(ctx, Unit{Name: webUnit, Group: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("with all places taken: %v", err)
	}
}

// An answer counts for a control group, for ten seconds; a failure for one. So many are kept at most.
func TestAnswersAreRemembered(t *testing.T) {
	fails := false
	socket, questions := fakeBus(t, func(c net.Conn, to asked) {
		fields, body := variant(binary.LittleEndian, webRun)
		if fails {
			body = body[1:]
		}
		_, _ = c.Write(reply(binary.LittleEndian, kindReturn, to, 2, fields, body))
	})
	now := time.Unix(1_000_000, 0)
	a := New(socket, func() time.Time { return now })
	ask := func(what string, group uint64, want int64, failed bool) {
		t.Helper()
		if _, err := a.Of(t.Context(), Unit{Name: webUnit, Group: group}); (err != nil) != failed {
			t.Errorf("%s: %v", what, err)
		}
		if got := questions.Load(); got != want {
			t.Errorf("%s: %d questions, want %d", what, got, want)
		}
	}
	ask("first", 7, 1, false)
	ask("again", 7, 1, false)
	ask("another group", 8, 2, false)
	ask("a group that cannot be seen", 0, 3, false)
	ask("that one again", 0, 4, false)
	now = now.Add(keptFor)
	ask("after ten seconds", 7, 5, false)
	now, fails = now.Add(keptFor), true
	ask("it fails", 7, 6, true)
	ask("it failed", 7, 6, true)
	now, fails = now.Add(failureKept), false
	ask("a second later", 7, 7, false)
	for i := range uint64(maxKept) {
		a.keep(Unit{Name: webUnit, Group: 100 + i}, "", nil)
	}
	if n := len(a.mu.kept); n > maxKept {
		t.Errorf("%d are kept", n)
	}
}

func TestUnitPath(t *testing.T) {
	for unit, want := range map[string]string{webUnit: webPath, "9p@x-1.service": "/org/freedesktop/systemd1/unit/_39p_40x_2d1_2eservice"} {
		if got := unitPath(unit); got != want {
			t.Errorf("%s: got %s, want %s", unit, got, want)
		}
	}
}

// The bus that Debian has takes what is said, and brings back what another one on it answers: here a systemd of the test.
func TestRealBus(t *testing.T) {
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("needs dbus-daemon")
	}
	dir, err := os.MkdirTemp("", "bus") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, config := filepath.Join(dir, "bus"), filepath.Join(dir, "config")
	if err := os.WriteFile(config, fmt.Appendf(nil, `<busconfig><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`, socket), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+config, "--nofork", "--nopidfile", "--nosyslog") //nolint:gosec // the bus
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("the bus does not start")
		}
	}
	a := New(socket, time.Now)
	if got, err := a.Of(t.Context(), Unit{Name: webUnit}); got != "" || err != nil {
		t.Errorf("without systemd: %q, %v", got, err)
	}
	ready := make(chan error, 1)
	go beSystemd(socket, ready)
	select {
	case err := <-ready:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the bus does not give the name away")
	}
	if got, err := a.Of(t.Context(), Unit{Name: webUnit}); got != hex.EncodeToString(webRun) || err != nil {
		t.Errorf("with systemd: %q, %v", got, err)
	}
	if got, err := a.Of(t.Context(), Unit{Name: "other.service"}); got != "" || err != nil {
		t.Errorf("a unit that there is not: %q, %v", got, err)
	}
}

// beSystemd takes systemd's name on a bus and answers for one unit, until the bus ends.
func beSystemd(socket string, ready chan<- error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		ready <- err
		return
	}
	defer c.Close() //nolint:errcheck // a test's
	r := bufio.NewReader(c)
	_, _ = fmt.Fprintf(c, "\x00AUTH EXTERNAL %s\r\n", hex.EncodeToString(fmt.Append(nil, os.Geteuid())))
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "OK ") {
		ready <- fmt.Errorf("%q, %w", line, err)
		return
	}
	const bus = "org.freedesktop.DBus"
	name := call{serial: 2, to: bus, path: "/org/freedesktop/DBus", of: bus, method: "RequestName", args: []string{"org.freedesktop.systemd1"}}.encode()
	// The second argument is a number, which call knows nothing of: its signature becomes "su", and four bytes are appended.
	at := strings.Index(string(name), "\x01s\x00\x00")
	name[at], name[at+2], name[at+3] = 2, 'u', 0
	name = append(pad(name, 4), 0, 0, 0, 0)
	fields := binary.LittleEndian.Uint32(name[12:])
	if end := fixedBytes + int(fields); at+4 > end { // the header grew by the letter
		binary.LittleEndian.PutUint32(name[12:], fields+1)
	}
	binary.LittleEndian.PutUint32(name[4:], uint32(len(name)-(fixedBytes+(int(binary.LittleEndian.Uint32(name[12:]))+7)/8*8))) //nolint:gosec // a few bytes
	hello := call{serial: 1, to: bus, path: "/org/freedesktop/DBus", of: bus, method: "Hello"}.encode()
	_, _ = c.Write(append(append([]byte("BEGIN\r\n"), hello...), name...))
	for serial := uint32(3); ; serial++ {
		a, err := readCall(r)
		if err != nil {
			return
		}
		switch {
		case a.path == "": // the bus's answers: that to RequestName is the last of the beginning
		case wanted(a):
			fields, body := variant(binary.LittleEndian, webRun)
			_, _ = c.Write(reply(binary.LittleEndian, kindReturn, a, serial, fields, body))
			continue
		case strings.HasPrefix(a.path, "/org/freedesktop/systemd1"):
			_, _ = c.Write(reply(binary.LittleEndian, kindError, a, serial, fault(binary.LittleEndian, "org.freedesktop.systemd1.NoSuchUnit"), nil))
			continue
		case a.path == "/org/freedesktop/DBus" && a.first == "org.freedesktop.systemd1": // NameAcquired
			ready <- nil
		}
	}
}

// Whatever a bus says is read or refused, within bounds.
func FuzzMessage(f *testing.F) {
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		fields, body := variant(order, webRun)
		f.Add(reply(order, kindReturn, asked{serial: 2}, 1, fields, body))
		f.Add(reply(order, kindError, asked{serial: 2, sender: ":1.7"}, 1, fault(order, "org.x"), nil))
	}
	f.Add(call{serial: 1, to: "a", path: "/b", of: "c", method: "d", args: []string{"e", "f"}}.encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := readMessage(strings.NewReader(string(raw)))
		if err != nil {
			return
		}
		if id, err := m.invocation(); err == nil && len(id) != 0 && len(id) != 2*invocationBytes {
			t.Errorf("the id %q", id)
		}
	})
}
