package api

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// What is written by hand is what encoding/json writes.
func FuzzAnswersByHand(f *testing.F) {
	f.Add("k", []byte("v"), uint64(1), uint64(2), uint64(0), "")
	f.Add("ü<&>\"\\\u2028\x7f\x00", []byte("<a href=\"x\">\n\u2029"), uint64(1<<63), uint64(1795720087978<<16|7), uint64(3), "s<")
	f.Add("", []byte{0xff, 0}, uint64(0), uint64(0), uint64(0), "\xff")
	f.Fuzz(func(t *testing.T, key string, value []byte, n, at, lock uint64, session string) {
		key, session = strings.ToValidUTF8(key, ""), strings.ToValidUTF8(session, "") // others are never stored
		kv := state.KV{
			Key: key, Value: value, Flags: n, ModRevision: n + 1, CreateRevision: n / 2, Version: n / 3,
			ModifiedAt: clock.Stamp(at), Session: session, LockIndex: lock,
		}
		want, err := json.Marshal(pairOf(kv))
		if err != nil {
			return // a time beyond the year 9999
		}
		if got := appendPair(nil, kv); string(got) != string(want) {
			t.Errorf("pair:\n%s\n%s", got, want)
		}
		w := written{Key: key, Revision: n, LockIndex: lock}
		if lock%2 == 1 {
			w.Deleted = &n
		}
		want, _ = json.Marshal(w)
		if got := appendWritten(nil, w); string(got) != string(want) {
			t.Errorf("written:\n%s\n%s", got, want)
		}
		if got := string(appendStamp(nil, clock.Stamp(at))); got != clock.Stamp(at).String() {
			t.Errorf("stamp %s, want %s", got, clock.Stamp(at))
		}
	})
}

// countingConn counts the segments that a response is sent in.
type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

type countingListener struct {
	net.Listener
	writes *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countingConn{conn, l.writes}, nil
}

// A put and a get are each answered by one write, headers and body together, and the connection stays for the next.
func TestOneWriteAnAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var writes atomic.Int64
	serve(t, countingListener{l, &writes}, newFake(t, 1, 1).agents["a1"].withRole(policy.Local).Handler(Loopback))
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	reader := bufio.NewReader(conn)
	for i := range 6 {
		request := "PUT /parley/v1/kv/k HTTP/1.1\r\nHost: 127.0.0.1:8500\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("v", 1024)
		if i%2 == 1 {
			request = "GET /parley/v1/kv/k HTTP/1.1\r\nHost: 127.0.0.1:8500\r\n\r\n"
		}
		before := writes.Load()
		if _, err := fmt.Fprint(conn, request); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(reader, nil)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", response, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if n := writes.Load() - before; n != 1 {
			t.Errorf("request %d was answered in %d writes, want 1", i, n)
		}
	}
}

// A get by hand stays cheap: what it allocates does not grow by the way.
func TestAllocationsOfAGet(t *testing.T) {
	c := newFake(t, 1, 1)
	c.put("k", strings.Repeat("v", 256))
	kv, _ := c.agents["a1"].hub.View().Get("k")
	x := &Exchange{W: &discard{http.Header{headerReceipt: {"x"}}}}
	build := func(b []byte) []byte { return appendPair(b, kv) }
	if n := testing.AllocsPerRun(1000, func() { _ = x.writeBuilt(build) }); n > 2 {
		t.Errorf("%v allocations to write an answer, want at most 2", n)
	}
}
