package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/parley-mesh/parley/security/invocation"
)

// statusLimit bounds what is read of a file of /proc.
const statusLimit = 1 << 20

// peer is the process that opened a connection, held by a pidfd: its number cannot go over to another process while the pidfd
// says that it lives.
type peer struct {
	pid    int32
	uid    uint32 // effective, when it connected
	fd     int
	mu     sync.Mutex // guards fd against close; polling it takes no time
	closed bool

	unwatched bool // tests: whether it lives is not looked at, as if there were no pidfds
}

// setTaking makes the kernel say with each message who sent it. Sockets accepted from one that has it have it as well.
func setTaking(socket unixSocket) error {
	return control(socket, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
}

// unixSocket is a *net.UnixConn or *net.UnixListener.
type unixSocket interface {
	SyscallConn() (syscall.RawConn, error)
}

func control(socket unixSocket, f func(fd int) error) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil { //nolint:gosec // a descriptor
		return err
	}
	return inner
}

// newPeer finds out who opened the connection.
//
// Before Linux 6.5 there is no SO_PEERPIDFD, and the pidfd is opened by number. The process may have ended in between, and
// its number been given to another one. That one is not handed anything: it would have to answer a challenge on a connection
// that it does not have.
func newPeer(socket *net.UnixConn) (*peer, error) {
	p := &peer{fd: -1}
	err := control(socket, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return fmt.Errorf("ask who connected: %w", err)
		}
		p.pid, p.uid = cred.Pid, cred.Uid
		if p.pid <= 0 {
			return errors.New("the process that connected is outside of what this agent sees: run the agent in the host's pid namespace")
		}
		p.fd, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		if errors.Is(err, unix.ENOPROTOOPT) {
			p.fd, err = unix.PidfdOpen(int(p.pid), 0)
		}
		if err != nil {
			return fmt.Errorf("hold the process that connected: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(p.fd)
	return p, nil
}

// openPeer holds a process by its number, to say what attestation finds out about it.
func openPeer(pid int) (*peer, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	p := &peer{pid: int32(pid), fd: fd} //nolint:gosec // the kernel knows the number
	c, err := p.owner()
	if err != nil {
		p.close()
		return nil, err
	}
	p.uid = c.uid
	return p, nil
}

func (p *peer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		_ = unix.Close(p.fd)
	}
}

// alive returns errEnded when the process has ended.
func (p *peer) alive() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errEnded
	}
	if p.unwatched {
		return nil
	}
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	n, err := unix.Poll(fds, 0)
	switch {
	case errors.Is(err, unix.EINTR):
		return p.signalled()
	case err != nil:
		return fmt.Errorf("look whether the process lives: %w", err)
	case n > 0:
		return errEnded
	}
	return nil
}

// signalled is alive by other means, for when the poll was interrupted.
func (p *peer) signalled() error {
	err := unix.PidfdSendSignal(p.fd, 0, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return errEnded
	}
	if errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}

func (p *peer) proc(name string) string {
	return "/proc/" + strconv.Itoa(int(p.pid)) + "/" + name
}

// read returns the text of one of the process's files in /proc. That it lives afterwards says that it was its file.
func (p *peer) read(name string) ([]byte, error) {
	text, err := readLimited(p.proc(name), statusLimit)
	if dead := p.alive(); dead != nil {
		return nil, dead
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of the process: %w", name, err)
	}
	return text, nil
}

func (p *peer) owner() (owner, error) {
	text, err := p.read("status")
	if err != nil {
		return owner{}, err
	}
	return parseStatus(text)
}

// selectors returns what is known about the process, in order.
func (p *peer) selectors(ctx context.Context, look lookups) ([]Selector, error) {
	c, err := p.owner()
	if err != nil {
		return nil, err
	}
	if c.uid != p.uid {
		return nil, fmt.Errorf("it connected as user %d and runs as %d: connect again", p.uid, c.uid)
	}
	found := []Selector{selector(KindUID, number(c.uid)), selector(KindGID, number(c.gid))}
	for _, group := range c.groups {
		found = append(found, selector(KindGroup, number(group)))
	}
	text, err := p.read("cgroup")
	if err != nil {
		return nil, err
	}
	if cgroup := parseCgroup(text); cgroup != "" {
		found = append(found, selector(KindCgroup, cgroup))
		unit, err := p.unit(ctx, cgroup, look.runs)
		if err != nil {
			return nil, err
		}
		found = append(found, unit...)
	}
	program, err := p.program(ctx, look.hashes)
	if err != nil {
		return nil, err
	}
	found = append(found, program...)
	slices.Sort(found)
	return slices.Compact(found), nil
}

// unit returns the unit that a cgroup belongs to and which run of it that is. Without a word of systemd there is no run; what else is
// known counts all the same.
func (p *peer) unit(ctx context.Context, cgroup string, runs *invocation.Asker) ([]Selector, error) {
	unit, whole := unitIn(cgroup)
	if unit == "" {
		return nil, nil
	}
	found := []Selector{selector(KindUnit, unit)}
	if runs == nil {
		return found, nil
	}
	id, err := runs.Of(ctx, invocation.Unit{Name: unit, Group: groupNumber(whole)})
	if dead := p.alive(); dead != nil {
		return nil, dead
	}
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if id != "" {
		found = append(found, selector(KindRun, id))
	}
	return found, nil
}

// groupNumber is the number of a cgroup, which the kernel gives out once; 0 when its directory cannot be seen.
func groupNumber(cgroup string) uint64 {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/systemd"} {
		var st unix.Stat_t
		if unix.Stat(root+cgroup, &st) == nil {
			return st.Ino
		}
	}
	return 0
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// program returns the path and the hash of the program that the process runs. Neither is given where somebody else than the
// host's administrator decides what they are:
//
//   - In another user namespace than this agent's, or in a pid namespace that belongs to one, whose creator may say in
//     messages that he is any process in there (see decision 65).
//   - When the file is on a file system that a user provides.
//   - A path at which this agent finds another file: the process has mounts of its own, or the file was replaced.
//
// And where this agent may not look, because it does not run as root, there is nothing to give.
func (p *peer) program(ctx context.Context, hashes *hashes) ([]Selector, error) {
	foreign, err := p.foreignNamespace()
	if dead := p.alive(); dead != nil {
		return nil, dead
	}
	if err != nil || foreign {
		return nil, unlessDenied(err)
	}
	file, err := os.Open(p.proc("exe")) // the file itself, even if it has no name any more
	if dead := p.alive(); dead != nil {
		if err == nil {
			_ = file.Close()
		}
		return nil, dead
	}
	if err != nil {
		return nil, unlessDenied(err)
	}
	defer file.Close() //nolint:errcheck // read only
	var system unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &system); err != nil {
		return nil, fmt.Errorf("file system of the program: %w", err)
	}
	if system.Type == unix.FUSE_SUPER_MAGIC {
		return nil, nil
	}
	hash, err := hashes.of(ctx, p.uid, file)
	if err != nil {
		return nil, err
	}
	var found []Selector
	if hash != "" {
		found = append(found, selector(KindSHA256, hash))
	}
	path, err := os.Readlink(p.proc("exe"))
	if dead := p.alive(); dead != nil {
		return nil, dead
	}
	if err == nil && strings.HasPrefix(path, "/") && sameFile(file, path) {
		found = append(found, selector(KindPath, path))
	}
	return found, nil
}

// foreignNamespace reports whether the process's user namespace, or the one that its pid namespace belongs to, is not that of
// this agent.
func (p *peer) foreignNamespace() (bool, error) {
	own, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return false, err
	}
	user, err := os.Stat(p.proc("ns/user"))
	if err != nil {
		return false, err
	}
	pids, err := os.Open(p.proc("ns/pid"))
	if err != nil {
		return false, err
	}
	defer pids.Close() //nolint:errcheck // read only
	owner, err := unix.IoctlRetInt(int(pids.Fd()), unix.NS_GET_USERNS)
	if errors.Is(err, unix.EPERM) {
		return true, nil // it belongs to one that is above this agent's
	}
	if err != nil {
		return false, fmt.Errorf("whom the process's pid namespace belongs to: %w", err)
	}
	owning := os.NewFile(uintptr(owner), "userns") //nolint:gosec // a descriptor
	defer owning.Close()                           //nolint:errcheck // read only
	info, err := owning.Stat()
	if err != nil {
		return false, err
	}
	return !os.SameFile(own, user) || !os.SameFile(own, info), nil
}

// unlessDenied returns nil for what this agent has no right to look at, or what a process without a program lacks.
func unlessDenied(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func sameFile(file *os.File, path string) bool {
	there, err := os.Lstat(path)
	if err != nil {
		return false
	}
	here, err := file.Stat()
	return err == nil && os.SameFile(here, there)
}

// receiver returns the next bytes of the socket with the number of the process that sent them. Bytes of different senders are
// never mixed. File descriptors that somebody sends along find no room, and are dropped by the kernel.
func receiver(socket *net.UnixConn) func(p []byte) (int, int32, error) {
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	return func(p []byte) (int, int32, error) {
		n, oobn, _, _, err := socket.ReadMsgUnix(p, oob)
		if err == nil && n == 0 {
			err = io.EOF // the library does not say so for messages
		}
		if err != nil {
			return n, 0, err
		}
		return n, senderOf(oob[:oobn]), nil
	}
}

// senderOf returns the number of the process that sent a message, 0 if the kernel does not say.
func senderOf(oob []byte) int32 {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for i := range messages {
		if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			return cred.Pid
		}
	}
	return 0
}

// fileIdentity is what changes whenever a file's content does.
func fileIdentity(file *os.File) (key fileKey, changed int64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return key, 0, err
	}
	nanos := st.Ctim.Nano()
	return fileKey{device: st.Dev, inode: st.Ino, ctime: nanos, size: st.Size}, nanos, nil
}
