package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/parley-mesh/parley/ops"
)

const (
	joinsAtOnce     = 8
	joinDialTimeout = 3 * time.Second
	udpTries        = 3
	udpWait         = 500 * time.Millisecond
	udpProbeBytes   = 1200 // a server answers no shorter packet of an unknown version (RFC 9000, 6.1)
)

// precheckJoins tries all addresses, a few at a time, and returns when all have answered or not.
func precheckJoins(ctx context.Context, addrs []string) []ops.PreJoin {
	joins := make([]ops.PreJoin, len(addrs))
	var group errgroup.Group
	group.SetLimit(joinsAtOnce)
	for i, addr := range addrs {
		group.Go(func() error {
			joins[i] = precheckJoin(ctx, addr)
			return nil
		})
	}
	_ = group.Wait() // what failed is in joins
	return joins
}

// precheckJoin tries to reach an agent, without saying anything to it that it would act on.
func precheckJoin(ctx context.Context, addr string) ops.PreJoin {
	j := ops.PreJoin{Addr: addr}
	dialer := net.Dialer{Timeout: joinDialTimeout}
	c, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		j.TCP = err.Error()
	} else {
		_ = c.Close() // that it opened is the answer
	}
	j.UDP = probeUDP(ctx, addr)
	return j
}

// probeUDP sends a QUIC packet of a version that nobody has. A QUIC server answers it with the list of
// versions that it speaks, before any handshake and to anyone; a host without one answers by ICMP;
// silence says nothing.
func probeUDP(ctx context.Context, addr string) ops.PreUDP {
	dialer := net.Dialer{Timeout: joinDialTimeout}
	c, err := dialer.DialContext(ctx, "udp", addr)
	if err != nil {
		return ops.UDPSilent
	}
	defer c.Close() //nolint:errcheck // nothing is buffered
	packet, id := unknownVersion()
	answer := make([]byte, 2048)
	for range udpTries {
		_, err := c.Write(packet)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return ops.UDPRefused
		}
		_ = c.SetReadDeadline(time.Now().Add(udpWait)) // a socket of the kernel takes deadlines
		n, err := c.Read(answer)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return ops.UDPRefused
		case err == nil && isVersionList(answer[:n], id):
			return ops.UDPAnswers
		case ctx.Err() != nil:
			return ops.UDPSilent
		}
	}
	return ops.UDPSilent
}

// unknownVersion is a long header of a version reserved for this (RFC 9000, 15), and our connection id.
func unknownVersion() (packet, id []byte) {
	id = make([]byte, 8)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	packet = binary.BigEndian.AppendUint32([]byte{0xc0}, 0x1a2a3a4a)
	packet = append(append(packet, byte(len(id))), id...) // destination
	packet = append(append(packet, byte(len(id))), id...) // source
	return append(packet, make([]byte, udpProbeBytes-len(packet))...), id
}

// isVersionList reports whether b is a version negotiation packet for our connection id.
func isVersionList(b, id []byte) bool {
	return len(b) >= 7+len(id) && b[0]&0x80 != 0 && binary.BigEndian.Uint32(b[1:]) == 0 &&
		int(b[5]) == len(id) && string(b[6:6+len(id)]) == string(id)
}
