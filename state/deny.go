package state

import (
	"errors"
	"fmt"
	"strings"

	"github.com/parley-mesh/parley/clock"
)

// Limits of denials, part of the meaning of version 1 of DenySet.
const (
	MaxDenies        = 10_000          // ended and removed ones make room
	MaxDenySeconds   = 400 * 24 * 3600 // how long one may last that has an end
	DenyLiftedFor    = 24 * 3600       // seconds for which a state tells that one was removed
	MinSerialDigits  = 16              // hex digits; those of this program's own certificates have 32
	MaxSerialDigits  = 40              // by the standard of certificates
	operatorIDPath   = "/parley/operator/"
	agentIDPath      = "/parley/agent/"
	denySweepEvery   = 64 // how often, in rows, what has ended is looked for
	maxDenyUnixStamp = 1 << 40
)

// DenyKind says what a denial is of.
type DenyKind string

// The kinds. Hosts are denied by NodeEvict.
const (
	DenyID     DenyKind = "id"     // the SPIFFE ID of a program or an operator
	DenySerial DenyKind = "serial" // one certificate, by its serial number in hex
)

// Deny says that an identity, or one certificate, counts no more. The row stays for a while when it was removed, so that the
// removal can be told as well.
type Deny struct {
	Kind    DenyKind
	Subject string
	Until   uint64 // Unix seconds; 0: for good
	Removed bool
	At      clock.Stamp // of the last change
	By      string      // the caller of the command
	Reason  string
}

// Mark is the key of the row.
func (d Deny) Mark() DenyMark { return markOf(string(d.Kind), d.Subject) }

// Counts reports whether it denies something at a time (Unix seconds).
func (d Deny) Counts(now uint64) bool { return !d.Removed && !ended(d.Until, now) }

func ended(until, now uint64) bool { return until != 0 && until <= now }

// DenySet denies something, or says anew until when and why. A certificate is denied until it has ended at the latest. The
// result's Body is the row (DecodeDeny).
type DenySet struct {
	Kind    DenyKind
	Subject string
	Seconds uint64 // how long, by the stamps of the log; 0: for good, which a serial is not
	Reason  string
}

// DenyRemove lets it count again.
type DenyRemove struct {
	Kind    DenyKind
	Subject string
}

func (DenySet) kind() kind    { return kindDenySet }
func (DenyRemove) kind() kind { return kindDenyRemove }

// CheckDenied returns nil for what can be denied.
func CheckDenied(kind DenyKind, subject string) error {
	switch kind {
	case DenyID:
		return checkDeniedID(subject)
	case DenySerial:
		if n := len(subject); n < MinSerialDigits || n > MaxSerialDigits || n%2 != 0 || !checkHex(subject, n) || strings.HasPrefix(subject, "00") {
			return fmt.Errorf("the serial %.80q: give %d to %d digits of 0-9 and a-f, two for each byte, as parley identity show -o json has them", subject, MinSerialDigits, MaxSerialDigits)
		}
		return nil
	}
	return fmt.Errorf("kind %.40q: use %s or %s", kind, DenyID, DenySerial)
}

func checkDeniedID(id string) error {
	td, path, ok := cutSPIFFEID(id)
	if name, agent := strings.CutPrefix(path, agentIDPath); ok && agent {
		return fmt.Errorf("%.120q is the identity of an agent, whose host has to be shut out with it: parley evict %.63s", id, name)
	}
	if name, operator := strings.CutPrefix(path, operatorIDPath); ok && operator {
		return errors.Join(checkTrustDomain(td), CheckOperatorName(name))
	}
	return CheckWorkloadID(id)
}

func (c DenySet) check() error {
	switch {
	case len(c.Reason) > MaxReasonBytes || strings.ContainsAny(c.Reason, "\n\r"):
		return fmt.Errorf("the reason has %d bytes: use one line of at most %d", len(c.Reason), MaxReasonBytes)
	case c.Seconds > MaxDenySeconds:
		return fmt.Errorf("for %d s: the most is %d, or 0 for good", c.Seconds, MaxDenySeconds)
	case c.Kind == DenySerial && c.Seconds == 0:
		return errors.New("a certificate ends, and its denial with it: say how long")
	}
	return CheckDenied(c.Kind, c.Subject)
}

func (c DenyRemove) check() error { return CheckDenied(c.Kind, c.Subject) }

func (c DenySet) apply(a *applying) Result {
	now := a.seconds()
	if td, _, ok := cutSPIFFEID(c.Subject); ok && td != a.s.cluster().TrustDomain {
		return refuse(CodeInvalid, "%s is of the trust domain %s: this cluster's is %s", c.Subject, td, a.s.cluster().TrustDomain)
	}
	d := Deny{Kind: c.Kind, Subject: c.Subject, At: a.at, By: a.caller, Reason: c.Reason}
	if c.Seconds > 0 {
		d.Until = now + c.Seconds
	}
	old, known := a.s.deny(d.Mark())
	if known && !old.Removed && old.Until == d.Until && old.Reason == d.Reason {
		return Result{Body: EncodeDeny(old)} // a retry
	}
	if !known && !a.roomToDeny(now) {
		return refuse(CodeLimit, "%d identities and certificates are denied, the most that there can be: remove some (parley deny list), or replace what they are made by", MaxDenies)
	}
	a.setDeny(d)
	return Result{Body: EncodeDeny(d)}
}

func (c DenyRemove) apply(a *applying) Result {
	d, known := a.s.deny(markOf(string(c.Kind), c.Subject))
	if !known || d.Removed {
		return refuse(CodeNotFound, "%s is not denied", c.Subject)
	}
	d.Removed, d.Until, d.At, d.By, d.Reason = true, a.seconds()+DenyLiftedFor, a.at, a.caller, ""
	a.setDeny(d)
	return Result{}
}

func (a *applying) seconds() uint64 { return uint64(max(a.at.Wall().Unix(), 0)) }

func (a *applying) setDeny(d Deny) {
	mark := d.Mark()
	a.set(TableDeny, string(mark[:]), EncodeDeny(d))
}

// roomToDeny forgets what has ended, from time to time or when there is no room, and then, if there still is none, the removal
// that is told longest.
func (a *applying) roomToDeny(now uint64) bool {
	n := a.s.tables[TableDeny].rows
	if n < MaxDenies && n%denySweepEvery != 0 {
		return true
	}
	var over []DenyMark
	var lifted Deny
	a.s.scan(TableDeny, "", "", func(r *record) bool {
		switch d := must(DecodeDeny(r.row)); {
		case ended(d.Until, now):
			over = append(over, d.Mark())
		case d.Removed && (lifted.Subject == "" || d.At < lifted.At):
			lifted = d
		}
		return true
	})
	if len(over) == 0 && n >= MaxDenies && lifted.Subject != "" {
		over = append(over, lifted.Mark())
	}
	for _, mark := range over {
		a.set(TableDeny, string(mark[:]), nil)
	}
	return a.s.tables[TableDeny].rows < MaxDenies
}

// recoverDenies makes the denials of a new epoch: those of the later state, of the backup and the copy of the public state, are the ones that
// counted last. What the later one does not know any more ended or was removed long ago; taken row by row, a backup would bring it back.
func (a *applying) recoverDenies(v, known *View) {
	if !known.laterThan(v) {
		return
	}
	for _, d := range v.Denies() {
		mark := d.Mark()
		if _, ok := known.Deny(mark); !ok {
			a.set(TableDeny, string(mark[:]), nil)
		}
	}
	for _, d := range known.Denies() {
		a.setDeny(d)
	}
}

func (s *store) deny(mark DenyMark) (Deny, bool) {
	r, ok := s.get(TableDeny, string(mark[:]))
	if !ok {
		return Deny{}, false
	}
	return must(DecodeDeny(r.row)), true
}

// Deny returns the row of a mark, which may have ended or been removed.
func (v *View) Deny(mark DenyMark) (Deny, bool) { return v.s.deny(mark) }

// Denies returns all rows, those that were removed or have ended included.
func (v *View) Denies() []Deny {
	return rows(v.s, TableDeny, func(r *record) (Deny, error) { return DecodeDeny(r.row) })
}
