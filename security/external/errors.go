package external

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is why the Workload API gave nothing to use, and what to do about it.
type Error struct {
	Addr   string // of the Workload API
	Reason string // goes on from "the Workload API at ADDR"
	Hint   string
	cause  error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("the Workload API at %s %s", e.Addr, e.Reason)
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.cause }

// explain words an error of the connection.
func (f *Feed) explain(err error) error {
	e := &Error{Addr: f.o.Addr, Reason: "cannot be asked", cause: err, Hint: "see that spire-agent runs and that identity.workload_api is its socket"}
	path, unix := strings.CutPrefix(f.o.Addr, "unix://")
	switch code := status.Code(unwrapStatus(err)); {
	case code == codes.PermissionDenied:
		e.Reason, e.Hint = "knows no registration entry for this process", f.register()
	case code == codes.Unavailable && unix:
		_, missing := os.Stat(path)
		if errors.Is(missing, fs.ErrNotExist) {
			e.Reason, e.cause = "has no socket there", nil
		} else if errors.Is(missing, fs.ErrPermission) {
			e.Reason, e.Hint = "cannot be reached by this user", "let the user that the agent runs as enter the directory of the socket"
		}
	}
	return e
}

// unwrapStatus finds the error of gRPC, whose code a wrapped one does not always show.
func unwrapStatus(err error) error {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Err()
	}
	return err
}

// maxNamed is how many identities an error names.
const maxNamed = 3

// another says that the answer has identities, and none is this agent's.
func (f *Feed) another(ids []spiffeid.ID) error {
	var named []string
	home := false
	for _, id := range ids {
		home = home || id.TrustDomain() == f.o.ID.TrustDomain()
		if len(named) < maxNamed {
			named = append(named, id.String())
		}
	}
	e := &Error{Addr: f.o.Addr, Reason: "says that this process is " + strings.Join(named, ", ") + ", and not " + f.o.ID.String()}
	if !home {
		e.Hint = "the cluster's trust domain is that of parley init, for good: use the SPIRE of " + f.o.ID.TrustDomain().Name() +
			", or found the cluster anew with --trust-domain " + first(ids).TrustDomain().Name()
		return e
	}
	e.Hint = "the path names the node, and membership, roles and denials go by that: no other will do. " + f.register()
	return e
}

func first(ids []spiffeid.ID) spiffeid.ID {
	if len(ids) == 0 {
		return spiffeid.ID{}
	}
	return ids[0]
}

// register is the command that gives this process its identity.
func (f *Feed) register() string {
	return fmt.Sprintf("register it: spire-server entry create -spiffeID %s -parentID ID_OF_THIS_HOSTS_SPIRE_AGENT -selector unix:uid:%d", f.o.ID, os.Getuid())
}
