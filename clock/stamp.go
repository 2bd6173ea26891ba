package clock

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// logicalBits is the width of the logical part of a Stamp; the rest is milliseconds.
const logicalBits = 16

// maxMillis is the last millisecond that a Stamp can hold (the year 10889).
const maxMillis = 1<<(64-logicalBits) - 1

// Stamp is one reading of a hybrid logical clock: 48 bits of milliseconds since the Unix epoch, then
// 16 bits that order what happened within one millisecond. Stamps are compared as plain numbers. The
// zero Stamp is before every other one and means "never".
type Stamp uint64

// Wall returns the physical part, in UTC, to the millisecond. It is for people: compare Stamps, not
// what Wall returns.
func (s Stamp) Wall() time.Time { return time.UnixMilli(int64(s.millis())).UTC() }

// Logical returns the part that orders stamps of the same millisecond.
func (s Stamp) Logical() uint16 { return uint16(s) }

// String returns "milliseconds.logical", which ParseStamp reads.
func (s Stamp) String() string {
	return strconv.FormatUint(s.millis(), 10) + "." + strconv.FormatUint(uint64(s.Logical()), 10)
}

// MarshalText is String as bytes; it never fails.
func (s Stamp) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseStamp; on an error s keeps its value.
func (s *Stamp) UnmarshalText(text []byte) error {
	parsed, err := ParseStamp(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// ParseStamp reads what String writes, and nothing else: no signs, no leading zeros, no missing part.
func ParseStamp(text string) (Stamp, error) {
	head, tail, found := strings.Cut(text, ".")
	millis, err := strconv.ParseUint(head, 10, 64-logicalBits)
	if err != nil || !found {
		return 0, badStamp(text)
	}
	logical, err := strconv.ParseUint(tail, 10, logicalBits)
	if err != nil {
		return 0, badStamp(text)
	}
	stamp := Stamp(millis<<logicalBits | logical)
	if stamp.String() != text {
		return 0, badStamp(text)
	}
	return stamp, nil
}

func badStamp(text string) error {
	if len(text) > 40 {
		text = text[:40] + "..."
	}
	return fmt.Errorf("clock stamp %q is not milliseconds.logical, such as 1700000000000.5", text)
}

func (s Stamp) millis() uint64 { return uint64(s) >> logicalBits }

// physical makes the first stamp of t's millisecond; a time outside the range gives its nearest end.
func physical(t time.Time) Stamp {
	millis := t.UnixMilli()
	switch {
	case millis < 0:
		return 0
	case millis > maxMillis:
		return Stamp(uint64(maxMillis) << logicalBits)
	}
	return Stamp(uint64(millis) << logicalBits)
}

// plus moves s by whole milliseconds and stops at the last stamp there is.
func (s Stamp) plus(d time.Duration) Stamp {
	millis := uint64(d.Milliseconds())
	if millis > maxMillis-s.millis() {
		return ^Stamp(0)
	}
	return s + Stamp(millis<<logicalBits)
}
