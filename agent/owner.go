package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what fits into the kernel's address of a Unix socket.
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1

// socketExcess is by how many bytes the path of a directory's admin socket is too long to be bound.
func socketExcess(dir string) int {
	return max(0, len(filepath.Join(dir, adminSocket))-maxSocketPath)
}

// checkLength refuses a directory in which the admin socket could not be bound.
func checkLength(dir string) error {
	if n := socketExcess(dir); n > 0 {
		return withHint(fmt.Errorf("the path of %s is %d bytes too long for a socket in it", dir, n),
			"choose a --data-dir with a shorter path")
	}
	return nil
}

// checkOwner refuses a directory of another user than this process's. Without it root could found a
// cluster, or run an agent once, in the directory of a service, whose user then cannot read what root wrote.
func checkOwner(dir string) error {
	uid, err := ownerOf(dir)
	if err != nil {
		return fmt.Errorf("see who owns the data directory: %w", err)
	}
	return strangersDir(dir, uid, os.Geteuid())
}

func ownerOf(path string) (uid int, err error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return int(s.Uid), nil
}

// strangersDir is an error when a data directory belongs to another user than who would run in it.
func strangersDir(dir string, owner, euid int) error {
	if owner == euid {
		return nil
	}
	theirs, ours := userName(owner), userName(euid)
	return withHint(fmt.Errorf("%s belongs to the user %s, and this runs as %s", dir, theirs, ours),
		fmt.Sprintf("run it as that user: runuser -u %s -- parley ...; an agent that is a service is started by: systemctl start parley", theirs))
}

// withOwnerHint says how a file in the data directory that this user may not use is given back to them.
func withOwnerHint(err error, dir string) error {
	var at *fs.PathError
	if !errors.Is(err, fs.ErrPermission) || Hint(err) != "" || !errors.As(err, &at) || !strings.HasPrefix(at.Path, dir) {
		return err
	}
	return withHint(err, fmt.Sprintf("another user wrote there; as root: chown -R %s: %s", userName(os.Geteuid()), dir))
}

// userName is what the host calls a user, the number if it has no name.
func userName(uid int) string {
	number := strconv.Itoa(uid)
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return number
}
