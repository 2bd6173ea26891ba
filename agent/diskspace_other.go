//go:build !linux

package agent

// diskSpace is not known here.
func diskSpace(string) (free, total uint64, ok bool) { return 0, 0, false }
