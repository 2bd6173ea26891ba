package workload

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// SystemSocket is where programs find the socket of an agent that runs as root.
const SystemSocket = "/run/parley/workload.sock"

// SocketName is the socket's name in another directory.
const SocketName = "workload.sock"

// maxSocketPath is the longest path that the kernel takes.
const maxSocketPath = 107

// Listen opens the socket, which every process of the host may connect to. Its directory is made when it is missing. A socket
// that an agent left behind is replaced; one that somebody listens on is not.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path of the workload socket has %d bytes, at most %d are possible: choose a shorter one", len(path), maxSocketPath)
	}
	if err := makeDirectory(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := removeLeft(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on the workload socket: %w", err)
	}
	if err := errors.Join(setTaking(l), os.Chmod(path, 0o666)); err != nil { //nolint:gosec // for every process; each is attested
		_ = l.Close()
		return nil, fmt.Errorf("open the workload socket to all: %w", err)
	}
	return l, nil
}

// makeDirectory makes the socket's directory, which others may enter and only this user may change. Whoever else could change
// it could put a socket of his own there.
func makeDirectory(dir string) error {
	err := os.Mkdir(dir, 0o755) //nolint:gosec // others look for the socket in it
	if err == nil {
		return os.Chmod(dir, 0o755) //nolint:gosec // whatever the umask is
	}
	if !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the directory of the workload socket: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("directory of the workload socket: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	mine := ok && (int(owner.Uid) == os.Geteuid() || owner.Uid == 0)
	if !info.IsDir() || !mine || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s, for the workload socket, has to be a directory that only the agent's user can write: chown and chmod go-w it, or choose another", dir)
	}
	return nil
}

func removeLeft(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("workload socket: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is no socket: remove it, or choose another path for the workload socket", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close() // it told enough
		return fmt.Errorf("%s is served by another program: stop it, or choose another path for the workload socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the old workload socket: %w", err)
	}
	return nil
}
