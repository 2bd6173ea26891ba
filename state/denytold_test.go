package state

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/clock"
)

// TestDenyNotices: the newest come first, with removals and evictions among them, and so many and no more are told.
func TestDenyNotices(t *testing.T) {
	m := beforeLoss(t) // a2 has a Raft id
	apply(t, m, stampAt(1500), DenySet{Kind: DenySerial, Subject: testSerial(1), Seconds: 60})
	apply(t, m, stampAt(1600), DenySet{Kind: DenyID, Subject: webID})
	before := m.View()
	apply(t, m, stampAt(1700), DenyRemove{Kind: DenyID, Subject: webID})
	apply(t, m, stampAt(1800), NodeEvict{Node: "a2"})
	v := m.View()
	all := v.DenyNotices(0, MaxDenyNotices)
	if len(all) != 4 {
		t.Fatalf("%+v", all)
	}
	marks := map[DenyMark]DenyNotice{}
	for _, n := range all {
		marks[n.Mark] = n
		if !v.Includes(n) {
			t.Errorf("the state that tells %+v does not include it", n)
		}
	}
	n, _ := v.Node("a2")
	host, issuer := marks[MarkOfHost(sha256.Sum256(n.HostKey))], marks[MarkOfIssuer("a2")]
	if host.At != stampAt(1800) || issuer.At != host.At || all[0].Revision != host.Revision || before.Includes(host) {
		t.Errorf("host %+v, issuer %+v", host, issuer)
	}
	if web := marks[MarkOfID(webID)]; !web.Removed || web.Counts(0) || before.Includes(web) || all[2] != web {
		t.Errorf("web %+v", web)
	}
	if serial := all[3]; serial.Mark != MarkOfSerial(mustHex(t, testSerial(1))) || !serial.Counts(serial.Until-1) || serial.Counts(serial.Until) || !before.Includes(serial) {
		t.Errorf("serial %+v", serial)
	}
	if some := v.DenyNotices(0, 1); len(some) != 1 || some[0].Revision != host.Revision {
		t.Errorf("the newest: %+v", some)
	}
}

// TestDenyNoticesKeepPlaces: no flood of denials pushes the newest evictions out of a statement, nor evictions the newest denial; what has ended
// takes the places that are left.
func TestDenyNoticesKeepPlaces(t *testing.T) {
	m := beforeLoss(t)
	apply(t, m, stampAt(1500), NodeEvict{Node: "a2"}, DenySet{Kind: DenyID, Subject: webID})
	flood := make([]Command, MaxDenyNotices+1)
	for i := range flood {
		flood[i] = DenySet{Kind: DenySerial, Subject: testSerial(i), Seconds: 60}
	}
	apply(t, m, stampAt(1600), flood...)
	v := m.View()
	now := uint64(v.Stamp().Wall().Unix())
	n, _ := v.Node("a2")
	host, issuer, web := MarkOfHost(sha256.Sum256(n.HostKey)), MarkOfIssuer("a2"), MarkOfID(webID)
	tells := func(all []DenyNotice, mark DenyMark) bool {
		return slices.ContainsFunc(all, func(n DenyNotice) bool { return n.Mark == mark })
	}
	for _, most := range []int{MaxShortNotices, MaxDenyNotices} {
		all := v.DenyNotices(now, most)
		if len(all) != most || !tells(all, host) || !tells(all, issuer) {
			t.Errorf("%d of %d are told, the host: %v, the issuer: %v", len(all), most, tells(all, host), tells(all, issuer))
		}
		if tells(all, web) || all[0].At != v.Stamp() {
			t.Errorf("control, of %d: the oldest is told, or the newest is not first", most)
		}
		if !slices.IsSortedFunc(all, func(a, b DenyNotice) int { return cmp.Compare(b.At, a.At) }) {
			t.Errorf("of %d: not the newest first", most)
		}
		if all = v.DenyNotices(now+60, most); len(all) != most || !tells(all, web) || !tells(all, host) || !tells(all, issuer) {
			t.Errorf("when the flood has ended, %d are told of %d, among them the one that lasts: %v", len(all), most, tells(all, web))
		}
	}

	// The other way round: more evictions than places.
	var evictions []Command
	for i := range 30 {
		node := fmt.Sprint("b", i)
		token := testToken(10 + i)
		evictions = append(evictions, TokenCreate{Token: token}, testJoin(10+i, node), NodeEvict{Node: node})
	}
	apply(t, m, stampAt(2000), evictions...)
	apply(t, m, stampAt(2001), DenySet{Kind: DenyID, Subject: webID, Reason: "again"})
	if all := m.View().DenyNotices(now, MaxShortNotices); len(all) != MaxShortNotices || all[0].Mark != web {
		t.Errorf("the newest denial is not told first: %+v", all)
	}
}

func testStatement(notices int) DenyStatement {
	s := DenyStatement{Node: strings.Repeat("n", MaxNameBytes), Signature: make([]byte, 72)}
	for i := range notices {
		s.Notices = append(s.Notices, DenyNotice{
			Mark: DenyMark{byte(i)}, Revision: 1<<63 - uint64(i), At: clock.Stamp(math.MaxUint64) - clock.Stamp(i), Until: maxDenyUnixStamp, Removed: i%2 == 0,
		})
	}
	return s
}

// TestDenyStatement: it is read back as it was written, the largest is as small as it has to be, and what no member of a core
// says is refused.
func TestDenyStatement(t *testing.T) {
	for notices, limit := range map[int]int{1: 200, MaxShortNotices: MaxShortStatementBytes, MaxDenyNotices: MaxDenyStatementBytes} {
		s := testStatement(notices)
		b := EncodeDenyStatement(s)
		got, err := DecodeDenyStatement(b)
		if err != nil || !reflect.DeepEqual(got, s) || len(b) > limit {
			t.Errorf("%d notices, %d bytes: %v, want at most %d", notices, len(b), err, limit)
		}
	}
	for name, spoil := range map[string]func(*DenyStatement){
		"nothing":      func(s *DenyStatement) { s.Notices = nil },
		"no signature": func(s *DenyStatement) { s.Signature = nil },
		"no node":      func(s *DenyStatement) { s.Node = "" },
		"order":        func(s *DenyStatement) { s.Notices[0].At = 1 },
		"no time":      func(s *DenyStatement) { s.Notices[1].Until = maxDenyUnixStamp + 1 },
		"many":         func(s *DenyStatement) { s.Notices = testStatement(MaxDenyNotices + 1).Notices },
		"signature":    func(s *DenyStatement) { s.Signature = make([]byte, maxDenySignatureBytes+1) },
	} {
		s := testStatement(2)
		spoil(&s)
		if _, err := DecodeDenyStatement(EncodeDenyStatement(s)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := DecodeDenyStatement(make([]byte, MaxDenyStatementBytes+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("large: %v", err)
	}
	s := testStatement(1)
	other := s
	other.Signature = []byte("another")
	if string(s.Signed("c")) != string(other.Signed("c")) || string(s.Signed("c")) == string(s.Signed("d")) {
		t.Error("the signature is not over the statement and the cluster alone")
	}
}

// TestMayTellDenials: only a node of the core tells of denials; that it is allowed there is not enough.
func TestMayTellDenials(t *testing.T) {
	m := beforeLoss(t)
	apply(t, m, stampAt(1500), TokenCreate{Token: testToken(3)}, testJoin(3, "a3"), CoreGrant{Node: "a3", Allow: true})
	v := m.View()
	if key, err := v.MayTellDenials("a1"); err != nil || string(key) != string(hostKey("a1")) {
		t.Errorf("a1: %q, %v", key, err)
	}
	for _, node := range []string{"a3", "a9"} {
		if _, err := v.MayTellDenials(node); err == nil {
			t.Errorf("%s may", node)
		}
	}
	apply(t, m, stampAt(1600), NodeEvict{Node: "a2"})
	if _, err := m.View().MayTellDenials("a2"); err == nil {
		t.Error("an evicted one may")
	}
}

// What anybody sends as a statement is read or refused, without a panic, and what is read has one encoding.
func FuzzDecodeDenyStatement(f *testing.F) {
	f.Add(EncodeDenyStatement(testStatement(1)))
	f.Add(EncodeDenyStatement(testStatement(MaxShortNotices)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeDenyStatement(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v", err)
			}
			return
		}
		if again := EncodeDenyStatement(s); string(again) != string(b) {
			t.Fatalf("two encodings:\n%x\n%x", b, again)
		}
	})
}
