package invocation

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// SystemBus is where the bus of a host is.
const SystemBus = "/run/dbus/system_bus_socket"

const (
	askWithin   = 500 * time.Millisecond // a question, from the dial to the answer
	maxAsking   = 8                      // at a time; who finds no place waits
	maxKept     = 1024                   // units; beyond, all are forgotten and asked for again
	keptFor     = 10 * time.Second       // an answer
	failureKept = time.Second            // that there was none: a bus that hangs is not asked by every caller
	maxMessages = 16                     // of others on the way to an answer: the bus greets with signals
	maxLine     = 256                    // of the words before the first message
)

// Unit is a unit of systemd and the number of the control group that it has now, which changes with it. 0: unknown, nothing
// is remembered.
type Unit struct {
	Name  string
	Group uint64
}

// Asker asks one bus.
type Asker struct {
	socket string
	now    func() time.Time
	turns  chan struct{}
	mu     struct {
		sync.Mutex // nothing is asked under it
		kept       map[Unit]answer
	}
}

// answer is what the bus said, until when that counts.
type answer struct {
	id    string
	err   error
	until time.Time
}

// New returns one for the bus at a socket.
func New(socket string, now func() time.Time) *Asker {
	a := &Asker{socket: socket, now: now, turns: make(chan struct{}, maxAsking)}
	a.mu.kept = make(map[Unit]answer)
	return a
}

// Of returns the id of the run that a unit is in, in 32 hexadecimal digits. It is "" when there is no bus, no systemd on it, or no run.
func (a *Asker) Of(ctx context.Context, unit Unit) (string, error) {
	if kept, ok := a.get(unit); ok {
		return kept.id, kept.err
	}
	select {
	case a.turns <- struct{}{}:
		defer func() { <-a.turns }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if kept, ok := a.get(unit); ok {
		return kept.id, kept.err // another one has asked meanwhile
	}
	id, err := ask(ctx, a.socket, unit.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // no bus: the next dial costs nothing either
	}
	if ctx.Err() == nil {
		a.keep(unit, id, err)
	}
	return id, err
}

func (a *Asker) get(unit Unit) (answer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kept, ok := a.mu.kept[unit]
	return kept, ok && a.now().Before(kept.until)
}

func (a *Asker) keep(unit Unit, id string, err error) {
	if unit.Group == 0 {
		return
	}
	lasts := keptFor
	if err != nil {
		lasts = failureKept
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.mu.kept) >= maxKept {
		clear(a.mu.kept)
	}
	a.mu.kept[unit] = answer{id: id, err: err, until: a.now().Add(lasts)}
}

// ask is one question on a connection of its own.
func ask(ctx context.Context, socket, unit string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close() //nolint:errcheck // all was read
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	id, err := askOver(conn, unit)
	if err != nil {
		return "", fmt.Errorf("ask systemd for the run of %s: %w", unit, err)
	}
	return id, nil
}

// askOver introduces this process by its user, which the bus knows from the kernel, takes a place on the bus, and asks.
func askOver(conn net.Conn, unit string) (string, error) {
	r := bufio.NewReaderSize(conn, maxLine)
	user := hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))
	if _, err := fmt.Fprintf(conn, "\x00AUTH EXTERNAL %s\r\n", user); err != nil {
		return "", err
	}
	line, err := r.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(string(line), "OK ") {
		return "", fmt.Errorf("the bus does not know us: %.80q", line)
	}
	const bus, systemd = "org.freedesktop.DBus", "org.freedesktop.systemd1"
	hello := call{serial: 1, to: bus, path: "/org/freedesktop/DBus", of: bus, method: "Hello"}
	get := call{
		serial: 2, to: systemd, path: unitPath(unit), of: bus + ".Properties", method: "Get",
		args: []string{systemd + ".Unit", "InvocationID"},
	}
	all := append([]byte("BEGIN\r\n"), hello.encode()...)
	if _, err := conn.Write(append(all, get.encode()...)); err != nil {
		return "", err
	}
	for range maxMessages {
		m, err := readMessage(r)
		switch {
		case err != nil:
			return "", err
		case m.replyTo == hello.serial && m.kind == kindError:
			return "", fmt.Errorf("the bus gives us no place: %.80q", m.errorName)
		case m.replyTo != get.serial:
		case m.kind == kindError && nobody[m.errorName]:
			return "", nil
		case m.kind == kindError:
			return "", fmt.Errorf("refused: %.80q", m.errorName)
		case m.kind == kindReturn:
			return m.invocation()
		}
	}
	return "", fmt.Errorf("no answer among %d messages", maxMessages)
}

// nobody are the errors by which a bus says that there is no systemd on it, or systemd that it has no such unit.
var nobody = map[string]bool{
	"org.freedesktop.DBus.Error.ServiceUnknown": true, "org.freedesktop.DBus.Error.NameHasNoOwner": true,
	"org.freedesktop.DBus.Error.UnknownObject": true, "org.freedesktop.systemd1.NoSuchUnit": true,
	"org.freedesktop.DBus.Error.Spawn.ServiceNotFound": true,
}

// unitPath is the object of a unit on the bus: what is no letter or digit is written as _ and two digits, and so is a digit in
// front.
func unitPath(unit string) string {
	path := []byte("/org/freedesktop/systemd1/unit/")
	for i := range len(unit) {
		c := unit[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if digit := c >= '0' && c <= '9'; letter || digit && i > 0 {
			path = append(path, c)
		} else {
			path = fmt.Appendf(path, "_%02x", c)
		}
	}
	return string(path)
}
