package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// quickPair is both ends of a connection over TCP.
func quickPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nothing is pending
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b = Quick(dialled), Quick(accepted)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// What is larger than a call may move, and than the kernel buffers, arrives whole, to a reader who comes late; then the end is seen.
func TestQuickMovesAll(t *testing.T) {
	a, b := quickPair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 16*maxQuick/16)
	wrote := make(chan error, 1)
	go func() {
		n, err := a.Write(sent)
		if n != len(sent) && err == nil {
			err = io.ErrShortWrite
		}
		wrote <- errors.Join(err, a.Close())
	}()
	time.Sleep(20 * time.Millisecond) // so that the writer has to wait; it makes no difference to the outcome
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes of %d came, %v", len(got), len(sent), err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
}

// Errors are those of any connection: who compares them need not know.
func TestQuickErrors(t *testing.T) {
	t.Run("deadline of a read", func(t *testing.T) {
		a, _ := quickPair(t)
		if err := a.SetReadDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err := a.Read(make([]byte, 1))
		var timeout net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatalf("read: %v", err)
		}
	})
	t.Run("deadline of a write", func(t *testing.T) {
		a, _ := quickPair(t)
		if err := a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := a.Write(make([]byte, 64<<20)) // nobody reads
		if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == 64<<20 {
			t.Fatalf("wrote %d: %v", n, err)
		}
	})
	t.Run("closed here", func(t *testing.T) {
		a, _ := quickPair(t)
		read := make(chan error, 1)
		go func() {
			_, err := a.Read(make([]byte, 1))
			read <- err
		}()
		_ = a.Close()
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Fatalf("read: %v", err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("write: %v", err)
		}
	})
	t.Run("reset by the peer", func(t *testing.T) {
		a, b := quickPair(t)
		if err := b.(interface{ SetLinger(sec int) error }).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		_ = b.Close()
		_, err := a.Read(make([]byte, 1))
		if op := (*net.OpError)(nil); !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) || op.Op != "read" {
			t.Fatalf("read: %v", err)
		}
	})
	t.Run("closed by the peer", func(t *testing.T) {
		a, b := quickPair(t)
		_ = b.Close()
		if n, err := a.Read(make([]byte, 1)); n != 0 || err != io.EOF { //nolint:errorlint // the very value
			t.Fatalf("read %d: %v", n, err)
		}
	})
}

// A call allocates nothing.
func TestQuickAllocates(t *testing.T) {
	a, b := quickPair(t)
	buf := make([]byte, 64)
	n := testing.AllocsPerRun(100, func() {
		if _, err := a.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b, buf); err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Fatalf("%v allocations", n)
	}
}

// A connection is prompt while little of what was written is on its way, and a write that would wait then fails; afterwards
// writes wait again.
func TestQuickPrompt(t *testing.T) {
	a, b := quickPair(t)
	c, ok := a.(interface{ Prompt(on bool) bool })
	if !ok {
		t.Skip("connections are not quick on this system")
	}
	if !c.Prompt(true) {
		t.Fatal("no room in a new connection")
	}
	if n, err := a.Write(make([]byte, 4<<10)); n != 4<<10 || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
	if n, err := a.Write(make([]byte, 64<<20)); n == 64<<20 || !errors.Is(err, syscall.EAGAIN) { // nobody reads
		t.Fatalf("wrote %d: %v", n, err)
	}
	c.Prompt(false)
	if c.Prompt(true) {
		t.Error("there is room where a write did not fit")
	}
	go func() { _, _ = io.Copy(io.Discard, b) }()
	if n, err := a.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
		t.Errorf("a write that may wait wrote %d: %v", n, err)
	}
}
