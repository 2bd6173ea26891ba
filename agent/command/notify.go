package command

import (
	"net"
	"strings"
)

// notify tells systemd the state of this process ("READY=1"), as sd_notify(3) does. Without systemd the
// variable is not set and nothing happens; a failure is returned for the log and changes nothing else.
func notify(getenv func(string) string, state string) error {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if strings.HasPrefix(path, "@") { // the kernel's name for a socket without a file
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte(state))
	if closeErr := conn.Close(); err == nil {
		err = closeErr
	}
	return err
}
