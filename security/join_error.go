package security

import "fmt"

// The codes of a JoinError. All but the last three are permanent: asking again cannot help.
const (
	JoinForeign      = "foreign"       // the token is for another cluster
	JoinRootMismatch = "root_mismatch" // every address showed a root that the token does not name
	JoinUnknown      = "token_unknown" // no such token, or the proof is wrong; not told apart
	JoinExpired      = "token_expired"
	JoinUsed         = "token_used"
	JoinRevoked      = "token_revoked"
	JoinNodeBound    = "token_bound" // the token is for another node name
	JoinNameTaken    = "name_taken"  // the name belongs to another host key
	JoinDenied       = "denied"      // the host was evicted
	JoinInvalid      = "invalid"     // the request makes no sense to the cluster
	JoinUnattested   = "unattested"  // no admission is for the host's certificate

	JoinUnavailable = "unavailable" // no leader at the moment
	JoinBusy        = "busy"
	JoinClock       = "clock" // the joiner's clock is far off
)

// joinHints is what to do about a code that comes without a hint of its own.
var joinHints = map[string]string{
	JoinForeign:      "make a token in the cluster that you want to join, with `parley token create`",
	JoinRootMismatch: "check the address of --join; if the cluster's root was replaced, make a new token",
	JoinUnknown:      "make a new token with `parley token create`",
	JoinExpired:      "make a new token with `parley token create`, with a longer --ttl if need be",
	JoinUsed:         "make a new token with `parley token create`, or one for several hosts with --uses",
	JoinRevoked:      "make a new token with `parley token create`",
	JoinNodeBound:    "start the agent with the --name that the token was made for",
	JoinNameTaken:    "choose another --name, or replace the old host with `parley token create --replace NODE`",
	JoinDenied:       "ask the operator who evicted this host",
	JoinInvalid:      "run the version of parley that the cluster runs",
	JoinUnattested:   "parley admission list, on an agent of the cluster, shows whose certificates admit which hosts",
	JoinUnavailable:  "the cluster has no leader that this agent can reach; the join is repeated",
	JoinBusy:         "the join is repeated",
	JoinClock:        "set the clock of this host; the join is repeated",
}

// JoinError is why the cluster did not admit a host. It crosses the wire.
type JoinError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// NewJoinError makes an error with the usual hint of its code.
func NewJoinError(code, message string) *JoinError {
	return &JoinError{Code: code, Message: message, Hint: joinHints[code]}
}

// Error leaves the hint to whoever shows it: a command prints it on a line of its own.
func (e *JoinError) Error() string { return fmt.Sprintf("join refused (%s): %s", e.Code, e.Message) }

// Permanent tells whether asking again cannot help. A code that this version does not know is.
func (e *JoinError) Permanent() bool {
	switch e.Code {
	case JoinUnavailable, JoinBusy, JoinClock:
		return false
	}
	return true
}

// sanitized bounds what a peer wrote before it reaches a terminal.
func (e *JoinError) sanitized() *JoinError {
	return &JoinError{Code: printable(e.Code, 64), Message: printable(e.Message, 512), Hint: printable(e.Hint, 512)}
}

func printable(s string, limit int) string {
	b := []byte(s[:min(len(s), limit)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
