package security

import "fmt"

// The codes of a RekeyError. The last two may pass, the others stay until somebody does something.
const (
	RekeyForeign     = "foreign"      // the request is for another cluster
	RekeyUnknownNode = "unknown_node" // the cluster has no such node, or it has left
	RekeyHostKey     = "wrong_host_key"
	RekeyWindow      = "window_over" // the last certificate ended longer ago than ContinuityWindow
	RekeyDenied      = "denied"      // the host was evicted
	RekeyInvalid     = "invalid"     // the request makes no sense to the cluster
	RekeyCopied      = "copied"      // the host was seen twice, or went back to an older copy of itself
	RekeyOutdated    = "outdated"    // the host has gone on since, by what the cluster knows
	RekeyUntold      = "no_generation"

	RekeyClock       = "clock"       // the clock of the host that asks is far off
	RekeyUnavailable = "unavailable" // no core member could be asked
)

// joinAgain is the way back for a host that the cluster does not take back by its key.
const joinAgain = "join again: an empty data directory, and a token made by `parley token create --replace NODE` on another agent"

// decideCopy is what an operator does about a host that there are two of. The runbook has the steps.
const decideCopy = "stop every copy but the right one, then, on another agent: parley agent trust NODE for the one that is left, or parley evict NODE; runbook host-copied"

// thatAlone says how to put a file of an identity back. Keys do not change, generations do with each renewal.
const thatAlone = "that file alone: with an older identity/generation.secret the host is taken for a copy, until parley agent trust NODE on another agent"

var rekeyHints = map[string]string{
	RekeyForeign:     "another cluster answers at that address; check --join",
	RekeyUnknownNode: joinAgain,
	RekeyHostKey:     "put identity/host.key of this host back, " + thatAlone + "; without it " + joinAgain,
	RekeyWindow:      joinAgain,
	RekeyDenied:      "ask the operator who evicted this host",
	RekeyInvalid:     "run the version of parley that the cluster runs",
	RekeyCopied:      decideCopy,
	RekeyOutdated:    decideCopy,
	RekeyUntold:      "run the version of parley that the cluster runs, with the file identity/generation.secret as this host had it last; if that is damaged or lost, remove it, and run parley agent trust NODE on another agent",
	RekeyClock:       "set the clock of this host; the renewal is repeated",
	RekeyUnavailable: "the renewal is repeated",
}

// RekeyError is why the cluster did not renew a host by its key. It crosses the wire.
type RekeyError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// NewRekeyError makes an error with the usual hint of its code.
func NewRekeyError(code, message string) *RekeyError {
	return &RekeyError{Code: code, Message: message, Hint: rekeyHints[code]}
}

// Error leaves the hint to whoever shows it.
func (e *RekeyError) Error() string { return fmt.Sprintf("refused (%s): %s", e.Code, e.Message) }

// Permanent tells whether asking again cannot help. A code that this version does not know is.
func (e *RekeyError) Permanent() bool { return e.Code != RekeyClock && e.Code != RekeyUnavailable }

// sanitized bounds what a peer wrote before it reaches a terminal.
func (e *RekeyError) sanitized() *RekeyError {
	return &RekeyError{Code: printable(e.Code, 64), Message: printable(e.Message, 512), Hint: printable(e.Hint, 512)}
}
