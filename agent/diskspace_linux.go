package agent

import "golang.org/x/sys/unix"

// diskSpace returns the bytes that this process may still write to dir's file system, and its size.
func diskSpace(dir string) (free, total uint64, ok bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil || s.Bsize <= 0 {
		return 0, 0, false
	}
	return s.Bavail * uint64(s.Bsize), s.Blocks * uint64(s.Bsize), true
}
