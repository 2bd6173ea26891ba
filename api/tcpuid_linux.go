package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Layout of sock_diag(7): a header, the request that names one socket by its two ends, and the answer.
const (
	sockDiagByFamily = 20
	headerBytes      = 16
	diagRequestBytes = 56
	diagAnswerUID    = 64 // offset of the uid in inet_diag_msg
	diagTimeout      = 1  // seconds; the kernel answers in microseconds or not at all
)

// tcpPeerUID asks the kernel (sock_diag) which uid owns the other end of a TCP connection within this host. It is a
// hint for limits and the log, never a right: a process may pass its sockets on. The error is not nil when the other
// end is on another host or in another network namespace, or the kernel offers no sock_diag.
func tcpPeerUID(conn net.Conn) (uint32, error) {
	local, okLocal := conn.LocalAddr().(*net.TCPAddr)
	remote, okRemote := conn.RemoteAddr().(*net.TCPAddr)
	if !okLocal || !okRemote {
		return 0, errors.New("not a tcp connection")
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, fmt.Errorf("open sock_diag: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: diagTimeout}); err != nil {
		return 0, fmt.Errorf("limit sock_diag: %w", err)
	}
	request := diagRequest(remote.AddrPort(), local.AddrPort())
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("ask sock_diag: %w", err)
	}
	answer := make([]byte, 1024)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return 0, fmt.Errorf("read sock_diag: %w", err)
	}
	return parseDiag(answer[:n])
}

// diagRequest names the socket whose own end is from.
func diagRequest(from, to netip.AddrPort) []byte {
	b := make([]byte, 0, headerBytes+diagRequestBytes)
	b = binary.NativeEndian.AppendUint32(b, headerBytes+diagRequestBytes)
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...) // sequence and port: one request on this socket
	family := byte(unix.AF_INET)
	if !from.Addr().Unmap().Is4() {
		family = unix.AF_INET6
	}
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, 0xffffffff) // any state
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	for _, end := range []netip.Addr{from.Addr().Unmap(), to.Addr().Unmap()} {
		var field [16]byte
		copy(field[:], end.AsSlice())
		b = append(b, field[:]...)
	}
	b = append(b, 0, 0, 0, 0)                                        // any interface
	return append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff) // no cookie
}

func parseDiag(b []byte) (uint32, error) {
	if len(b) < headerBytes+diagAnswerUID+4 || binary.NativeEndian.Uint16(b[4:]) != sockDiagByFamily {
		return 0, errors.New("sock_diag does not know the connection")
	}
	return binary.NativeEndian.Uint32(b[headerBytes+diagAnswerUID:]), nil
}
