//go:build !linux

package workload

import (
	"context"
	"errors"
	"net"
	"os"
)

var errNoAttestation = errors.New("processes can be attested on Linux only")

// peer is never made here.
type peer struct {
	pid       int32
	uid       uint32
	unwatched bool
}

func (*peer) close() {}

func (*peer) selectors(context.Context, lookups) ([]Selector, error) { return nil, errNoAttestation }

func newPeer(*net.UnixConn) (*peer, error) { return nil, errNoAttestation }

func openPeer(int) (*peer, error) { return nil, errNoAttestation }

func setTaking(*net.UnixListener) error { return errNoAttestation }

func receiver(*net.UnixConn) func([]byte) (int, int32, error) {
	return func([]byte) (int, int32, error) { return 0, 0, errNoAttestation }
}

func fileIdentity(*os.File) (fileKey, int64, error) { return fileKey{}, 0, errNoAttestation }
