package workload

import "encoding/binary"

// The parts of HTTP/2 (RFC 9113) that a challenge needs: where frames begin and end, and what PING frames look like.
const (
	clientPreface   = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeader     = 9
	frameHeaders    = 0x1
	framePush       = 0x5
	framePing       = 0x6
	frameContinued  = 0x9
	flagAck         = 0x1
	flagEndHeaders  = 0x4
	pingBytes       = 8
	pingFrameLength = frameHeader + pingBytes
)

// challenge is what a PING asks the other end to send back.
type challenge [pingBytes]byte

// frame returns the PING frame that carries the challenge.
func (c challenge) frame() []byte {
	f := make([]byte, 0, pingFrameLength)
	f = append(f, 0, 0, pingBytes, framePing, 0, 0, 0, 0, 0)
	return append(f, c[:]...)
}

// incoming follows the frames that a client sends, and takes answers to challenges out of them. What does not follow HTTP/2
// goes through as it is: the server behind refuses it.
type incoming struct {
	preface int    // bytes of the preface that were seen
	header  []byte // of the frame that begins, until it is whole
	payload int    // bytes of the frame that are still to come
	ping    []byte // payload of a PING answer, while it is collected
	isPing  bool
	whole   bool // all of the PING answer came from the attested process
}

// feed takes bytes that one process sent at once, appends to out what the server is to read, and calls answered for each
// PING answer, with whether all of it was sent by the attested process. answered reports whether the answer was awaited: if
// so the server does not see it.
func (in *incoming) feed(out, data []byte, attested bool, answered func(c challenge, attested bool) bool) []byte {
	for len(data) > 0 {
		switch {
		case in.preface < len(clientPreface):
			n := min(len(data), len(clientPreface)-in.preface)
			out, data, in.preface = append(out, data[:n]...), data[n:], in.preface+n
		case in.isPing:
			n := min(len(data), pingBytes-len(in.ping))
			in.ping, data = append(in.ping, data[:n]...), data[n:]
			in.whole = in.whole && attested
			if len(in.ping) == pingBytes {
				if !answered(challenge(in.ping), in.whole) {
					out = append(append(out, in.header...), in.ping...)
				}
				in.isPing, in.ping, in.header = false, in.ping[:0], in.header[:0]
			}
		case in.payload > 0:
			n := min(len(data), in.payload)
			out, data, in.payload = append(out, data[:n]...), data[n:], in.payload-n
		default:
			if len(in.header) == 0 {
				in.whole = true
			}
			n := min(len(data), frameHeader-len(in.header))
			in.header, data = append(in.header, data[:n]...), data[n:]
			in.whole = in.whole && attested
			if len(in.header) == frameHeader {
				out = in.begin(out)
			}
		}
	}
	return out
}

// begin starts the frame whose header is whole.
func (in *incoming) begin(out []byte) []byte {
	length := frameLength(in.header)
	if in.header[3] == framePing && in.header[4]&flagAck != 0 && length == pingBytes {
		in.isPing = true
		return out
	}
	out = append(out, in.header...)
	in.payload, in.header = length, in.header[:0]
	return out
}

// outgoing follows the frames that the server sends, to know where another one may go between.
type outgoing struct {
	header  []byte
	payload int
	started bool // a frame was sent: the first one has to be the server's SETTINGS
	block   bool // a block of headers is open, which nothing may interrupt
}

// between reports whether a frame may be put in here.
func (o *outgoing) between() bool {
	return o.started && !o.block && len(o.header) == 0 && o.payload == 0
}

// until returns how many of the bytes go out before the next place where a frame may be put in, and counts them as sent.
func (o *outgoing) until(data []byte) (n int) {
	for n < len(data) {
		if o.payload > 0 {
			k := min(len(data)-n, o.payload)
			o.payload, n = o.payload-k, n+k
		} else {
			k := min(len(data)-n, frameHeader-len(o.header))
			o.header, n = append(o.header, data[n:n+k]...), n+k
			if len(o.header) == frameHeader {
				o.begin()
			}
		}
		if o.between() {
			break
		}
	}
	return n
}

func (o *outgoing) begin() {
	o.payload, o.started = frameLength(o.header), true
	switch o.header[3] {
	case frameHeaders, framePush, frameContinued:
		o.block = o.header[4]&flagEndHeaders == 0
	}
	o.header = o.header[:0]
}

// frameLength is the length of a frame's payload: the first three bytes of its header.
func frameLength(header []byte) int {
	return int(binary.BigEndian.Uint32([]byte{0, header[0], header[1], header[2]}))
}
