package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// tape is what a recording is written on and read from. Each method does both, so that no reader can differ from its
// writer: it appends what v points to, or sets that from what comes next. The first thing that makes no sense ends the
// reading; everything after it is zero.
type tape struct {
	b       []byte
	reading bool
	at      int // of the reader
	filled  int // bytes of commands that were put in place of those that were left out
	err     error
}

// maxFilled bounds what a reader makes up for commands: a small file could name terabytes of them.
const maxFilled = 2 << 30

var errTape = errors.New("the recording is malformed")

func (t *tape) fail(format string, args ...any) {
	if t.err == nil {
		t.err = fmt.Errorf("%w: %s, at byte %d", errTape, fmt.Sprintf(format, args...), t.at)
	}
	t.at = len(t.b)
}

func (t *tape) uint(v *uint64) {
	if !t.reading {
		t.b = binary.AppendUvarint(t.b, *v)
		return
	}
	*v = 0
	if t.err != nil {
		return
	}
	value, n := binary.Uvarint(t.b[t.at:])
	if n <= 0 {
		t.fail("a number is cut off")
		return
	}
	*v, t.at = value, t.at+n
}

func (t *tape) int(v *int64) {
	u := uint64(*v)<<1 ^ uint64(*v>>63) //nolint:gosec // zigzag
	t.uint(&u)
	if t.reading { // who writes down what others read must not touch it
		*v = int64(u>>1) ^ -int64(u&1) //nolint:gosec // zigzag
	}
}

func (t *tape) byte(v *byte) {
	switch {
	case !t.reading:
		t.b = append(t.b, *v)
	case t.err != nil || t.at == len(t.b):
		*v = 0
		t.fail("it is cut off")
	default:
		*v = t.b[t.at]
		t.at++
	}
}

func (t *tape) flag(v *bool) {
	var b byte
	if *v {
		b = 1
	}
	t.byte(&b)
	if t.reading {
		*v = b == 1
	}
	if b > 1 {
		t.fail("%d for yes or no", b)
	}
}

// fixed is bytes of a length that both sides know.
func (t *tape) fixed(v []byte) {
	switch {
	case !t.reading:
		t.b = append(t.b, v...)
	case len(t.b)-t.at < len(v):
		t.fail("it is cut off")
	default:
		t.at += copy(v, t.b[t.at:])
	}
}

// length is that of a list, of which each item takes a byte at least.
func (t *tape) length(n int) int {
	v := uint64(n) //nolint:gosec // a length
	t.uint(&v)
	if t.reading && v > uint64(len(t.b)-t.at) { //nolint:gosec // a length
		t.fail("%d items in %d bytes", v, len(t.b)-t.at)
		return 0
	}
	return int(v) //nolint:gosec // checked, or a length
}

// present reports whether there is something: v says so to the writer.
func (t *tape) present(v bool) bool {
	t.flag(&v)
	return v
}

func (t *tape) bytes(v *[]byte) {
	if !t.present(*v != nil) {
		if t.reading {
			*v = nil
		}
		return
	}
	n := t.length(len(*v))
	if t.reading {
		*v = make([]byte, n)
	}
	t.fixed(*v)
}

func (t *tape) text(v *string) {
	n := t.length(len(*v))
	if !t.reading {
		t.b = append(t.b, *v...)
		return
	}
	*v = string(t.b[t.at : t.at+n])
	t.at += n
}

// size is the length of something that is left out: zeros take its place.
func (t *tape) size(v *[]byte) {
	if !t.present(*v != nil) {
		if t.reading {
			*v = nil
		}
		return
	}
	n := uint64(len(*v))
	t.uint(&n)
	if t.reading {
		*v = t.zeros(n)
	}
}

func (t *tape) zeros(n uint64) []byte {
	if n > maxFilled || t.filled > maxFilled-int(n) {
		t.fail("more than %d bytes of commands", maxFilled)
		return nil
	}
	t.filled += int(n)
	return make([]byte, n)
}

// error keeps the text.
func (t *tape) error(v *error) {
	if !t.present(*v != nil) {
		if t.reading {
			*v = nil
		}
		return
	}
	var text string
	if !t.reading {
		text = (*v).Error()
	}
	t.text(&text)
	if t.reading {
		*v = errors.New(text) //nolint:err113 // what it was is in the text
	}
}

// number is a number that may be missing.
func (t *tape) number(v **uint64) {
	if !t.present(*v != nil) {
		if t.reading {
			*v = nil
		}
		return
	}
	if t.reading {
		*v = new(uint64)
	}
	t.uint(*v)
}

func (t *tape) numbers(v *[]uint64) {
	n := t.length(len(*v))
	if t.reading {
		*v = nil
		if n > 0 {
			*v = make([]uint64, n)
		}
	}
	for i := range *v {
		t.uint(&(*v)[i])
	}
}

func (t *tape) proto(v proto.Message) {
	var b []byte
	if !t.reading {
		b, t.err = proto.Marshal(v)
	}
	t.bytes(&b)
	if t.reading && t.err == nil {
		if err := proto.Unmarshal(b, v); err != nil {
			t.fail("%v", err)
		}
	}
}

func (t *tape) confState(v **raftpb.ConfState) {
	if !t.present(*v != nil) {
		if t.reading {
			*v = nil
		}
		return
	}
	if t.reading {
		*v = &raftpb.ConfState{}
	}
	s := *v
	t.numbers(&s.Voters)
	t.numbers(&s.Learners)
	t.numbers(&s.VotersOutgoing)
	t.numbers(&s.LearnersNext)
	if t.present(s.AutoLeave != nil) {
		if t.reading {
			s.AutoLeave = new(bool)
		}
		t.flag(s.AutoLeave)
	}
}

func (t *tape) hardState(v **raftpb.HardState) {
	if !t.present(*v != nil) {
		if t.reading {
			*v = nil
		}
		return
	}
	if t.reading {
		*v = &raftpb.HardState{}
	}
	t.number(&(*v).Term)
	t.number(&(*v).Vote)
	t.number(&(*v).Commit)
}

func (t *tape) snapshot(v **raftpb.Snapshot) {
	if !t.present(*v != nil) {
		if t.reading {
			*v = nil
		}
		return
	}
	if t.reading {
		*v = &raftpb.Snapshot{}
	}
	s := *v
	t.bytes(&s.Data)
	if !t.present(s.Metadata != nil) {
		return
	}
	if t.reading {
		s.Metadata = &raftpb.SnapshotMetadata{}
	}
	t.confState(&s.Metadata.ConfState)
	t.number(&s.Metadata.Index)
	t.number(&s.Metadata.Term)
}

func (t *tape) snapshotRef(r *SnapshotRef) {
	t.uint(&r.Index)
	t.uint(&r.Term)
	t.fixed(r.Chain[:])
	t.confState(&r.ConfState)
	t.bytes(&r.Manifest)
	t.uint(&r.Size)
}
