package sim

import "encoding/binary"

// groupOp is a transaction over the keys of a group: if the key compare holds expect (0: does not exist), those of
// values that are not 0 are written, else all are read; or without write, all are read.
type groupOp struct {
	write   bool
	compare int
	expect  uint64
	values  [groupKeys]uint64
}

type groupSeen struct {
	unknown bool
	done    bool              // the compare held
	values  [groupKeys]uint64 // what was read
}

func decodeValue(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// stepGroup says whether seen may be the answer to op when the keys hold s, and what they hold then.
func stepGroup(s [groupKeys]uint64, op groupOp, seen groupSeen) (bool, [groupKeys]uint64) {
	if !op.write {
		return seen.values == s, s
	}
	holds := s[op.compare] == op.expect
	switch {
	case !seen.unknown && seen.done != holds:
		return false, s
	case !holds:
		return seen.unknown || seen.values == s, s
	}
	for i, v := range op.values {
		if v != 0 {
			s[i] = v
		}
	}
	return true, s
}

var groupModel = model[[groupKeys]uint64, groupOp, groupSeen](stepGroup)
