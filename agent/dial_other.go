//go:build !linux

package agent

import "syscall"

// limitUnacked has no equivalent here: the system's own patience decides.
func limitUnacked(string, string, syscall.RawConn) error { return nil }
