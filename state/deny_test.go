package state

import (
	"fmt"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/clock"
)

const webID = "spiffe://example.test/svc/web"

func testSerial(i int) string { return fmt.Sprintf("4%031x", i) }

// TestDeny: what is denied stays so until it ends or is removed, the same twice is the same once, and what was removed is known for
// a while.
func TestDeny(t *testing.T) {
	m := testGenesis()
	at := func(seconds uint64) clock.Stamp { return stampAt(int(1000 * seconds)) }
	one := func(s clock.Stamp, c Command, want Code) Result {
		t.Helper()
		all, _ := apply(t, m, s, c)
		if all[0].Code != want {
			t.Fatalf("%+v: %+v, want %s", c, all[0], want)
		}
		return all[0]
	}
	now := func() uint64 { return uint64(m.View().Stamp().Wall().Unix()) }
	one(at(1), DenyRemove{Kind: DenyID, Subject: webID}, CodeNotFound)
	body := one(at(1), DenySet{Kind: DenyID, Subject: webID, Reason: "stolen"}, CodeOK).Body
	if d, err := DecodeDeny(body); err != nil || d.Until != 0 || d.Reason != "stolen" || d.At == 0 {
		t.Errorf("%+v, %v", d, err)
	}
	revision := m.View().Revision()
	if one(at(2), DenySet{Kind: DenyID, Subject: webID, Reason: "stolen"}, CodeOK); m.View().Revision() != revision {
		t.Error("the same once more changes something")
	}
	one(at(2), DenySet{Kind: DenySerial, Subject: testSerial(1), Seconds: 60}, CodeOK)
	serial, ok := m.View().Deny(MarkOfSerial(append([]byte{0x40}, append(make([]byte, 14), 1)...)))
	if !ok || serial.Until != now()+60 || !serial.Counts(now()+59) || serial.Counts(now()+60) {
		t.Errorf("%+v, %v at %d", serial, ok, now())
	}
	one(at(3), DenySet{Kind: DenyID, Subject: "spiffe://other.org/svc/web"}, CodeInvalid)
	one(at(4), DenyRemove{Kind: DenyID, Subject: webID}, CodeOK)
	if d, ok := m.View().Deny(MarkOfID(webID)); !ok || !d.Removed || d.Counts(now()) || d.Until != now()+DenyLiftedFor {
		t.Errorf("removed: %+v, %v", d, ok)
	}
	one(at(4), DenyRemove{Kind: DenyID, Subject: webID}, CodeNotFound)
	one(at(5), DenySet{Kind: DenyID, Subject: webID, Seconds: 9}, CodeOK)
	if d, _ := m.View().Deny(MarkOfID(webID)); !d.Counts(now()) || d.Counts(now()+9) {
		t.Errorf("denied again: %+v", d)
	}
}

// TestDenyChecks: what cannot be denied is refused, with what to do instead.
func TestDenyChecks(t *testing.T) {
	for subject, says := range map[string]string{
		"spiffe://example.test/parley/agent/a1":     "parley evict a1",
		"spiffe://example.test/parley/other":        "below /parley",
		"spiffe://example.test":                     "no path",
		"web":                                       "does not begin with",
		"spiffe://example.test/parley/operator/A B": "operator",
		"spiffe://ex ample.org/parley/operator/eve": "trust domain",
	} {
		if err := (DenySet{Kind: DenyID, Subject: subject}).check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", subject, err, says)
		}
	}
	for _, serial := range []string{"", "4a", strings.Repeat("4a", 21), strings.Repeat("4A", 16), "00" + strings.Repeat("4a", 15), strings.Repeat("4", 31)} {
		if err := (DenySet{Kind: DenySerial, Subject: serial, Seconds: 1}).check(); err == nil {
			t.Errorf("the serial %q passes", serial)
		}
	}
	for name, c := range map[string]DenySet{
		"no end":      {Kind: DenySerial, Subject: testSerial(1)},
		"a late end":  {Kind: DenyID, Subject: webID, Seconds: MaxDenySeconds + 1},
		"long reason": {Kind: DenyID, Subject: webID, Reason: strings.Repeat("r", MaxReasonBytes+1)},
		"two lines":   {Kind: DenyID, Subject: webID, Reason: "a\nb"},
		"no kind":     {Kind: "node", Subject: "a1"},
	} {
		if c.check() == nil {
			t.Errorf("%s passes", name)
		}
	}
	for _, c := range []DenySet{
		{Kind: DenyID, Subject: webID}, {Kind: DenySerial, Subject: testSerial(1), Seconds: MaxDenySeconds},
		{Kind: DenyID, Subject: "spiffe://example.test/parley/operator/eve"},
	} {
		if err := c.check(); err != nil {
			t.Errorf("control: %v", err)
		}
	}
}

// TestDeniesAreBounded: there are so many and no more; what has ended makes room, and then what was removed longest ago.
func TestDeniesAreBounded(t *testing.T) {
	m := testGenesis()
	const each = 1000
	for first := 0; first < MaxDenies; first += each {
		commands := make([]Command, each)
		for i := range commands {
			seconds := uint64(MaxDenySeconds)
			if first+i < 3 {
				seconds = 100
			}
			commands[i] = DenySet{Kind: DenySerial, Subject: testSerial(first + i), Seconds: seconds}
		}
		apply(t, m, stampAt(1000), commands...)
	}
	more := func(ms, i int) Code {
		res, _ := apply(t, m, stampAt(ms), DenySet{Kind: DenySerial, Subject: testSerial(i), Seconds: 1000})
		return res[0].Code
	}
	if got := m.View().Rows(TableDeny); got != MaxDenies {
		t.Fatalf("%d rows", got)
	}
	if got := more(2000, MaxDenies); got != CodeLimit {
		t.Errorf("one more: %s", got)
	}
	if got := more(3000, 7); got != CodeOK {
		t.Errorf("one that is there: %s", got)
	}
	apply(t, m, stampAt(4000), DenyRemove{Kind: DenySerial, Subject: testSerial(8)})
	apply(t, m, stampAt(4001), DenyRemove{Kind: DenySerial, Subject: testSerial(9)})
	if got := more(5000, MaxDenies); got != CodeOK {
		t.Errorf("in place of one that was removed: %s", got)
	}
	if _, ok := m.View().Deny(MarkOfSerial(mustHex(t, testSerial(8)))); ok {
		t.Error("another one was forgotten than the one that was removed first, or none")
	}
	if got := more(200_000, MaxDenies+1); got != CodeOK || m.View().Rows(TableDeny) != MaxDenies-2 {
		t.Errorf("when three had ended: %s, %d rows", got, m.View().Rows(TableDeny))
	}
}

func mustHex(t *testing.T, s string) []byte {
	t.Helper()
	var b []byte
	if _, err := fmt.Sscanf(s, "%x", &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRecoverDenies: no restore takes a denial back that a later copy of the public state knows, nor brings one back that was
// removed.
func TestRecoverDenies(t *testing.T) {
	backup := beforeLoss(t)
	apply(t, backup, stampAt(1500), DenySet{Kind: DenyID, Subject: webID})
	later := beforeLoss(t)
	apply(t, later, stampAt(1500), DenySet{Kind: DenyID, Subject: webID})
	apply(t, later, stampAt(1600), DenyRemove{Kind: DenyID, Subject: webID}, DenySet{Kind: DenySerial, Subject: testSerial(1), Seconds: 9})
	o := recoverOptions()
	o.Known = publicCopy(t, later.View())
	v := mustRecover(t, backup.View(), o)
	serial, known := v.Deny(MarkOfSerial(mustHex(t, testSerial(1))))
	if web, _ := v.Deny(MarkOfID(webID)); !web.Removed || !known || serial.Removed {
		t.Errorf("with the copy: %+v, %+v", web, serial)
	}
	o.Known = nil
	v = mustRecover(t, backup.View(), o)
	if web, _ := v.Deny(MarkOfID(webID)); web.Removed || v.Rows(TableDeny) != 1 {
		t.Errorf("control, without: %+v", v.Denies())
	}
}

// TestRecoverDeniesOfTheLaterState: what the later of the two states says counts, as a whole: also that a removal is so long ago that nothing is left
// of it, and that a denial has another end. It does not matter which of them is the backup.
func TestRecoverDeniesOfTheLaterState(t *testing.T) {
	earlier := beforeLoss(t)
	apply(t, earlier, stampAt(1500), DenySet{Kind: DenyID, Subject: webID}, DenySet{Kind: DenySerial, Subject: testSerial(1), Seconds: 60})
	later := beforeLoss(t)
	apply(t, later, stampAt(1500), DenySet{Kind: DenyID, Subject: webID}, DenySet{Kind: DenySerial, Subject: testSerial(1), Seconds: 60})
	apply(t, later, stampAt(1600), DenyRemove{Kind: DenyID, Subject: webID}, DenySet{Kind: DenySerial, Subject: testSerial(1), Seconds: 3600})
	var many []Command
	for i := range 2 * denySweepEvery {
		many = append(many, DenySet{Kind: DenySerial, Subject: testSerial(2 + i), Seconds: 90_000})
	}
	apply(t, later, stampAt(1000*(DenyLiftedFor+1000)), many...)
	if _, ok := later.View().Deny(MarkOfID(webID)); ok {
		t.Fatal("control: the removal is still there")
	}
	serial := MarkOfSerial(mustHex(t, testSerial(1)))
	apply(t, later, stampAt(1000*(DenyLiftedFor+1001)), DenySet{Kind: DenySerial, Subject: testSerial(1), Seconds: 3600})
	want, _ := later.View().Deny(serial)
	for name, pair := range map[string][2]*Machine{"a later copy": {earlier, later}, "a later backup": {later, earlier}} {
		o := recoverOptions()
		o.Known = publicCopy(t, pair[1].View())
		v := mustRecover(t, pair[0].View(), o)
		got, _ := v.Deny(serial)
		if web, ok := v.Deny(MarkOfID(webID)); ok || got.Until != want.Until || v.Rows(TableDeny) != later.View().Rows(TableDeny) {
			t.Errorf("%s: %+v, %d rows, until %d, want %d rows and %d", name, web, v.Rows(TableDeny), got.Until, later.View().Rows(TableDeny), want.Until)
		}
	}
}
