package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// answerTimeout is how long an HTTP client waits for one answer.
const answerTimeout = 30 * time.Second

// HTTP speaks HTTP/1.1 over one kept connection, and no more of it than an agent's answers need: like the load
// generators that people use for HTTP, it leaves the processor to the server. It is a Client of one agent.
type HTTP struct {
	conn     net.Conn // nil after an error, until the next request
	reader   *bufio.Reader
	host     string
	settings *tls.Config
	out      []byte
	in       []byte
}

// DialHTTP connects to an agent; settings nil is plain HTTP. After a request that failed the next one connects again.
func DialHTTP(ctx context.Context, addr string, settings *tls.Config) (*HTTP, error) {
	h := &HTTP{host: addr, settings: settings}
	return h, h.dial(ctx)
}

// Hello sends a first request and takes any answer. A server soon closes a connection that never asked anything, and keeps
// one that did, while the other clients of a loop are still connecting.
func (h *HTTP) Hello(ctx context.Context) error {
	_, _, err := h.do(ctx, http.MethodGet, "none", "?stale", nil)
	return err
}

func (h *HTTP) dial(ctx context.Context) error {
	dialer := &net.Dialer{Timeout: answerTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", h.host)
	if err != nil {
		return err
	}
	if h.settings != nil {
		secured := tls.Client(conn, h.settings)
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return fmt.Errorf("handshake with %s: %w", h.host, err)
		}
		conn = secured
	}
	h.conn, h.reader = conn, bufio.NewReaderSize(conn, 4<<10)
	return nil
}

// Close ends the connection.
func (h *HTTP) Close() error {
	if h.conn == nil {
		return nil
	}
	return h.conn.Close()
}

// Put writes a key.
func (h *HTTP) Put(ctx context.Context, key string, value []byte) error {
	status, body, err := h.do(ctx, http.MethodPut, key, "", value)
	if err == nil {
		err = refused(status, body)
	}
	return err
}

// Get reads linearizably.
func (h *HTTP) Get(ctx context.Context, key string) (int, error) { return h.read(ctx, key, "") }

// Stale reads the agent's own copy.
func (h *HTTP) Stale(ctx context.Context, key string) (int, error) { return h.read(ctx, key, "?stale") }

func (h *HTTP) read(ctx context.Context, key, query string) (int, error) {
	status, body, err := h.do(ctx, http.MethodGet, key, query, nil)
	if err != nil {
		return 0, err
	}
	return valueSize(body), refused(status, body)
}

// valueSize is the length of the value in an answer to a read, {"key":..,"value":".."..}. The benchmark's values are
// letters, so that none is escaped. Decoding all of it would be work that no server is to blame for.
func valueSize(body []byte) int {
	_, rest, found := bytes.Cut(body, []byte(`"value":"`))
	if !found {
		return 0
	}
	return max(0, bytes.IndexByte(rest, '"'))
}

func refused(status int, body []byte) error {
	switch status {
	case http.StatusOK:
		return nil
	case http.StatusTooManyRequests:
		return ErrBusy
	}
	return fmt.Errorf("status %d: %.200s", status, body)
}

// do sends one request and reads its answer, whose body is valid until the next one.
func (h *HTTP) do(ctx context.Context, method, key, query string, value []byte) (status int, body []byte, err error) {
	if h.conn == nil {
		if err := h.dial(ctx); err != nil {
			return 0, nil, err
		}
	}
	if status, body, err = h.exchange(ctx, method, key, query, value); err != nil {
		_ = h.conn.Close() // nobody knows where the next answer would begin
		h.conn = nil
	}
	return status, body, err
}

// exchange sends a request in one write.
func (h *HTTP) exchange(ctx context.Context, method, key, query string, value []byte) (int, []byte, error) {
	deadline := time.Now().Add(answerTimeout)
	if at, ok := ctx.Deadline(); ok && at.Before(deadline) {
		deadline = at
	}
	if err := h.conn.SetDeadline(deadline); err != nil {
		return 0, nil, err
	}
	h.out = append(h.out[:0], method...)
	h.out = append(append(append(h.out, " /parley/v1/kv/"...), key...), query...)
	h.out = append(append(append(h.out, " HTTP/1.1\r\nHost: "...), h.host...), "\r\n"...)
	if value != nil {
		h.out = append(h.out, "Content-Length: "...)
		h.out = append(strconv.AppendInt(h.out, int64(len(value)), 10), "\r\n"...)
	}
	h.out = append(append(h.out, "\r\n"...), value...)
	if _, err := h.conn.Write(h.out); err != nil {
		return 0, nil, err
	}
	return h.answer()
}

// answer reads status line, headers and as many bytes as Content-Length says.
func (h *HTTP) answer() (status int, body []byte, err error) {
	line, err := h.line()
	if err != nil {
		return 0, nil, err
	}
	if len(line) < len("HTTP/1.1 200") {
		return 0, nil, textproto.ProtocolError("status line: " + string(line))
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, err
	}
	length := -1
	for {
		line, err := h.line()
		if err != nil {
			return 0, nil, err
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if strings.EqualFold(string(name), "Content-Length") {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, nil, err
			}
		}
	}
	if length < 0 || length > 1<<20 {
		return 0, nil, fmt.Errorf("an answer with Content-Length %d: this client reads up to 1 MiB of a known length", length)
	}
	if cap(h.in) < length {
		h.in = make([]byte, length)
	}
	_, err = io.ReadFull(h.reader, h.in[:length])
	return status, h.in[:length], err
}

func (h *HTTP) line() ([]byte, error) {
	line, err := h.reader.ReadSlice('\n')
	return bytes.TrimRight(line, "\r\n"), err
}
