//go:build linux

package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	meshPort = 8310
	protoTCP = 6
	protoUDP = 17
	gossipBy = "parley-gossip/1 by udp" // how the capture calls gossip that is not by TCP
	maxFrame = 256 << 10                // offloads make frames far larger than the wire's
)

// alpns are the protocols of the mesh port; gossip has two carriers.
var alpns = []string{"parley-rpc/1", "parley-raft/1", "parley-join/1", "parley-gossip/1", gossipBy}

// flow is one direction of a connection.
type flow struct {
	from, to netip.AddrPort
	protocol byte
}

func (f flow) reverse() flow { return flow{f.to, f.from, f.protocol} }

// traffic is what was captured of a flow, in order.
type traffic struct {
	packets  int
	payload  []byte   // all of it, so that what is split over packets is found
	initials [][]byte // UDP: datagrams that begin with a QUIC Initial packet
}

// sniffer captures what crosses the switch of a network to or from the mesh port, whatever host has it.
type sniffer struct {
	t    testing.TB
	fd   int
	done chan struct{}

	mu    sync.Mutex
	flows map[flow]*traffic
}

// newSniffer captures from now on until the test ends.
func newSniffer(n *network) *sniffer {
	n.t.Helper()
	s := &sniffer{t: n.t, done: make(chan struct{}), flows: make(map[flow]*traffic)}
	n.inside("switch", func() error {
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		var err error
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
		if err != nil {
			return err
		}
		wake := unix.Timeval{Usec: 100_000}
		return errors.Join(
			unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
			unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wake))
	})
	stop := make(chan struct{})
	go s.run(stop)
	n.t.Cleanup(func() {
		close(stop)
		<-s.done
		_ = unix.Close(s.fd)
	})
	return s
}

func (s *sniffer) run(stop chan struct{}) {
	defer close(s.done)
	frame := make([]byte, maxFrame)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(s.fd, frame, 0)
		if err != nil {
			continue // the timeout that lets us look at stop
		}
		// A frame passes twice: as it comes from a host, and as it goes out to the other.
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
			s.take(frame[:n])
		}
	}
}

// take keeps an Ethernet frame that holds IPv4 with TCP or UDP to or from the mesh port.
func (s *sniffer) take(frame []byte) {
	const ethernet = 14
	if len(frame) < ethernet+20 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return
	}
	ip := frame[ethernet:]
	head, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if total == 0 || total > len(ip) {
		total = len(ip) // a frame beyond 64 KiB has no length
	}
	f := flow{protocol: ip[9]}
	segment := ip[min(head, total):total]
	if f.protocol != protoTCP && f.protocol != protoUDP || len(segment) < 8 {
		return
	}
	f.from = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), binary.BigEndian.Uint16(segment))
	f.to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), binary.BigEndian.Uint16(segment[2:]))
	if f.from.Port() != meshPort && f.to.Port() != meshPort {
		return
	}
	payload := segment[8:]
	if f.protocol == protoTCP {
		if len(segment) < 20 {
			return
		}
		payload = segment[min(int(segment[12]>>4)*4, len(segment)):]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.flows[f]
	if t == nil {
		t = &traffic{}
		s.flows[f] = t
	}
	t.packets++
	t.payload = append(t.payload, payload...)
	if f.protocol == protoUDP && isInitial(payload) {
		t.initials = append(t.initials, bytes.Clone(payload))
	}
}

// lost is how many packets the kernel could not hand over; reading the number resets it.
func (s *sniffer) lost() int {
	s.t.Helper()
	stats, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		s.t.Fatal(err)
	}
	return int(stats.Drops)
}

// tally is what was captured of one protocol.
type tally struct{ handshakes, packets int }

// tallies sorts the connections by the ALPN of their ClientHello, which anyone on the path can read.
func (s *sniffer) tallies() map[string]tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]tally)
	for f, t := range s.flows {
		name := helloALPN(f, t)
		if name == "" {
			continue
		}
		sum := out[name]
		sum.handshakes++
		sum.packets += t.packets
		if f.protocol == protoUDP {
			// Both directions between two mesh ports may begin connections; the other one may
			// have counted its packets itself.
			sum.handshakes += len(initialKeys(t.initials)) - 1
		}
		if back := s.flows[f.reverse()]; back != nil && helloALPN(f.reverse(), back) == "" {
			sum.packets += back.packets
		}
		out[name] = sum
	}
	return out
}

// helloALPN is the protocol that a flow's ClientHello asks for; "" when the flow does not begin with one.
func helloALPN(f flow, t *traffic) string {
	if f.to.Port() != meshPort {
		return ""
	}
	hello := tlsHello(t.payload)
	if f.protocol == protoUDP {
		for _, crypto := range openInitials(t.initials) {
			hello = append(hello, crypto...)
		}
	}
	for _, name := range alpns {
		if bytes.Contains(hello, append([]byte{byte(len(name))}, name...)) {
			if f.protocol == protoUDP {
				return name + " by udp"
			}
			return name
		}
	}
	return ""
}

// tlsHello is the first record of a TCP flow, if it is a TLS handshake.
func tlsHello(payload []byte) []byte {
	if len(payload) < 5 || payload[0] != 22 || payload[1] != 3 {
		return nil
	}
	return payload[5:min(len(payload), 5+int(binary.BigEndian.Uint16(payload[3:])))]
}

// search returns the names of the needles that occur in the capture, QUIC's Initial packets included,
// whose encryption keeps nobody out.
func (s *sniffer) search(needles []needle) map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[string]bool)
	for _, t := range s.flows {
		haystacks := append(openInitials(t.initials), t.payload)
		for _, hay := range haystacks {
			for _, n := range needles {
				if n.in(hay) {
					seen[n.name] = true
				}
			}
		}
	}
	return seen
}
