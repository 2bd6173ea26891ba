package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/parley-mesh/parley/agent/config"
)

// sockets are the listeners of an agent. They are opened before anything runs, so that a port that is
// taken is an error at start and not a surprise later.
type sockets struct {
	meshTCP net.Listener
	meshUDP net.PacketConn
	http    net.Listener
	https   net.Listener // nil when off
	admin   net.Listener
}

func openSockets(cfg config.Config, dir *dataDir) (_ *sockets, err error) {
	s := &sockets{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.meshTCP, err = listen("mesh.bind", "tcp", cfg.Mesh.Bind); err != nil {
		return nil, err
	}
	// UDP takes the port that TCP got, so that a configured port 0 gives one number to both.
	if s.meshUDP, err = net.ListenPacket("udp", s.meshTCP.Addr().String()); err != nil {
		return nil, inUse("mesh.bind (UDP)", cfg.Mesh.Bind, err)
	}
	if s.http, err = listenHTTP(cfg.HTTP.Bind); err != nil {
		return nil, err
	}
	if cfg.HTTPS.Bind != "" {
		if s.https, err = listen("https.bind", "tcp", cfg.HTTPS.Bind); err != nil {
			return nil, err
		}
	}
	s.admin, err = listenUnix(dir.join(adminSocket))
	return s, err
}

func listenHTTP(bind string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(bind, "unix://"); ok {
		return listenUnix(path)
	}
	return listen("http.bind", "tcp", bind)
}

func listen(key, network, addr string) (net.Listener, error) {
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, inUse(key, addr, err)
	}
	return l, nil
}

func inUse(key, addr string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return withHint(fmt.Errorf("%s: %s is taken by another program", key, addr),
			"stop that program, or give this agent another address (--bind, --http)")
	}
	return fmt.Errorf("listen on %s (%s): %w", addr, key, err)
}

// listenUnix opens a socket that only this uid can reach.
func listenUnix(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		if len(path) > 100 {
			return nil, withHint(fmt.Errorf("listen on %s: %w", path, err),
				"a Unix socket's path is limited to about 100 bytes: choose a shorter --data-dir")
		}
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// removeStale removes a socket that a process left when it ended. Whatever else stands at the path is
// not ours to remove: http.bind may name any path.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen on %s: %w", path, err)
	case info.Mode().Type() != os.ModeSocket:
		return withHint(fmt.Errorf("listen on %s: a file that is no socket stands there", path), "choose another path, or remove the file yourself")
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close() // it told us enough
		return withHint(fmt.Errorf("%s is taken by another program", path), "stop that program, or choose another path")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the old socket: %w", err)
	}
	return nil
}

func (s *sockets) close() {
	s.closeOutside()
	if s.admin != nil {
		_ = s.admin.Close()
	}
}

// closeOutside closes all but the admin socket.
func (s *sockets) closeOutside() {
	for _, l := range []net.Listener{s.meshTCP, s.http, s.https} {
		if l != nil {
			_ = l.Close()
		}
	}
	if s.meshUDP != nil {
		_ = s.meshUDP.Close()
	}
}
