package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/storage"
)

const (
	ledgerFile = "ledger"
	// maxLedgerStarts is how many starts the ledger keeps. It is written again when it has twice as many.
	maxLedgerStarts = 64
	maxLedgerBytes  = 1 << 20 // of a file that something else has written to

	startsWindow = 10 * time.Minute // over which starts are counted
)

// ledgerLine is one line of the ledger. The boot id tells whether two readings of the boottime clock can be
// compared; between two boots only the wall clock is left.
type ledgerLine struct {
	Event string    `json:"event"` // start or stop
	Boot  string    `json:"boot,omitempty"`
	MS    int64     `json:"boottime_ms"`
	Wall  time.Time `json:"wall"`
	Clean bool      `json:"clean_before,omitempty"` // of a start: a stop stands before it
	// Explained is of a start: the process before ended while it applied a command, which the apply guard deals with.
	Explained bool `json:"explained,omitempty"`
}

const (
	ledgerStart = "start"
	ledgerStop  = "stop"
)

// ledger counts the starts of this data directory over crashes: one line a start, fsynced before anything
// that could crash, and one a clean stop. It is used by the goroutine of Run; starts are read by any.
type ledger struct {
	dir   *dataDir
	now   func() ledgerLine
	lines []ledgerLine // never changed after open
	size  int64        // of the file before this start, -1 when it was written again
}

// openLedger notes this start.
func (d *dataDir) openLedger(now func() ledgerLine, explained bool) (*ledger, error) {
	lines, torn, err := d.readLedger()
	if err != nil {
		return nil, err
	}
	start := now()
	start.Event = ledgerStart
	start.Clean = len(lines) > 0 && lines[len(lines)-1].Event == ledgerStop
	start.Explained = explained && !start.Clean && len(lines) > 0
	l := &ledger{dir: d, now: now, lines: append(lines, start), size: d.ledgerSize()}
	if len(l.lines) > 2*maxLedgerStarts {
		l.lines, l.size = lastStarts(l.lines, maxLedgerStarts), -1
		return l, d.write(ledgerFile, encodeLedger(l.lines))
	}
	text := encodeLedger(l.lines[len(l.lines)-1:])
	if torn {
		text = append([]byte("\n"), text...)
	}
	return l, d.appendLedger(text)
}

// stop marks a clean stop, so that the next start can tell.
func (l *ledger) stop() error {
	line := l.now()
	line.Event = ledgerStop
	return l.dir.appendLedger(encodeLedger([]ledgerLine{line}))
}

// undo takes back a start that was refused: nothing ran, and a refusal leaves the directory as it was. A crash on the
// way to it stays counted.
func (l *ledger) undo() error {
	switch {
	case l.size < 0:
		return nil
	case l.size == 0:
		return os.Remove(l.dir.join(ledgerFile))
	}
	return os.Truncate(l.dir.join(ledgerFile), l.size)
}

func (d *dataDir) ledgerSize() int64 {
	info, err := os.Stat(d.join(ledgerFile))
	if err != nil {
		return 0
	}
	return info.Size()
}

// first reports whether this is the first start of the directory, clean whether the one before ended well.
func (l *ledger) first() bool { return len(l.lines) == 1 }
func (l *ledger) clean() bool { return l.lines[len(l.lines)-1].Clean }

// crashes counts the starts of the last ten minutes that came after an end that was not clean. The oldest start of the
// ledger is none: nothing is known of what was before.
func (l *ledger) crashes() int {
	return startsWithin(l.crashed(true), l.now(), startsWindow)
}

// crashed are the starts that came after an end that was not clean, with those or without that the apply guard deals with.
func (l *ledger) crashed(explained bool) (lines []ledgerLine) {
	for i, line := range l.lines {
		if i > 0 && line.Event == ledgerStart && !line.Clean && (explained || !line.Explained) {
			lines = append(lines, line)
		}
	}
	return lines
}

// unstable counts the unexplained crashes of so long, and says for how long there was none.
func (l *ledger) unstable(window time.Duration) (n int, since time.Duration) {
	crashed, now := l.crashed(false), l.now()
	if len(crashed) == 0 {
		return 0, window
	}
	return startsWithin(crashed, now, window), startAge(crashed[len(crashed)-1], now)
}

// cleanRun is how many starts in a row, this one the last, came after a clean stop.
func (l *ledger) cleanRun() (n int) {
	for _, line := range slices.Backward(l.lines) {
		switch {
		case line.Event == ledgerStart && !line.Clean:
			return n
		case line.Event == ledgerStart:
			n++
		}
	}
	return n
}

// starts counts those of the last ten minutes, this one among them.
func (l *ledger) starts() int { return startsWithin(l.lines, l.now(), startsWindow) }

// startsWithin counts the starts that are less than window old. Within one boot the boottime clock says so, which
// no one can step; a start of another boot goes by the wall clock, and counts in either direction from now: a
// clock that was set back must not hide a host that crashes as a whole.
func startsWithin(lines []ledgerLine, now ledgerLine, window time.Duration) (n int) {
	for _, l := range lines {
		if l.Event == ledgerStart && startAge(l, now) < window {
			n++
		}
	}
	return n
}

func startAge(l, now ledgerLine) time.Duration {
	if l.Boot == now.Boot && l.Boot != "" {
		return time.Duration(now.MS-l.MS) * time.Millisecond
	}
	return now.Wall.Sub(l.Wall).Abs()
}

// lastStarts cuts lines to the last n starts and what is between and behind them.
func lastStarts(lines []ledgerLine, n int) []ledgerLine {
	for i := len(lines) - 1; i >= 0; i-- {
		if lines[i].Event == ledgerStart {
			n--
		}
		if n == 0 {
			return lines[i:]
		}
	}
	return lines
}

// thisBoot names the boot that this process belongs to, which does not change meanwhile. It is empty elsewhere than on Linux:
// the wall clock has to do there.
var thisBoot = sync.OnceValue(func() string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(boot))
})

// machineTime is now by the clocks of this host.
func machineTime() ledgerLine {
	return ledgerLine{
		Boot: thisBoot(), MS: clock.Boottime().Milliseconds(), Wall: clock.System().UTC(),
	}
}

func encodeLedger(lines []ledgerLine) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for _, l := range lines {
		_ = e.Encode(l) // strings, numbers and times always encode
	}
	return b.Bytes()
}

// readLedger leaves out lines that it cannot read: a crash cuts the last one, and an old line matters little.
// torn says that the file does not end with a line's end.
func (d *dataDir) readLedger() (lines []ledgerLine, torn bool, err error) {
	raw, err := os.ReadFile(d.join(ledgerFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", ledgerFile, err)
	}
	raw = raw[max(0, len(raw)-maxLedgerBytes):]
	for text := range bytes.Lines(raw) {
		var l ledgerLine
		if json.Unmarshal(text, &l) == nil && (l.Event == ledgerStart || l.Event == ledgerStop) {
			lines = append(lines, l)
		}
	}
	return lines, len(raw) > 0 && raw[len(raw)-1] != '\n', nil
}

// appendLedger adds text and makes it durable.
func (d *dataDir) appendLedger(text []byte) error {
	if err := storage.AppendSynced(d.fs, d.join(ledgerFile), text, 0o600); err != nil {
		return d.checked(fmt.Errorf("append to %s: %w", ledgerFile, err))
	}
	return nil
}
