package workload

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	api "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"
)

// malformed are texts that look like SPIFFE IDs and are none.
var malformed = []string{
	"", " ", "spiffe", "spiffe:", "spiffe:/", "spiffe://", "spiffe:///", "spiffe:///web", "test.example/web", "//test.example/web",
	"https://test.example/web", "SPIFFE://test.example/web", "Spiffe://test.example/web", " spiffe://test.example/web",
	"spiffe://test.example/web ", "spiffe://Test.example/web", "spiffe://test.EXAMPLE/web", "spiffe://test example/web",
	"spiffe://test.example:443/web", "spiffe://user@test.example/web", "spiffe://user:pw@test.example/web", "spiffe://täst/web",
	"spiffe://test%2eexample/web", "spiffe://[::1]/web", "spiffe://*/web", "spiffe://test.example/", "spiffe://test.example//web",
	"spiffe://test.example/web/", "spiffe://test.example/web//x", "spiffe://test.example/.", "spiffe://test.example/..",
	"spiffe://test.example/./web", "spiffe://test.example/web/..", "spiffe://test.example/web?x=1", "spiffe://test.example/web#x",
	"spiffe://test.example/we%62", "spiffe://test.example/wéb", "spiffe://test.example/web\x00", "spiffe://test.example/web\n",
	"spiffe://test.example/a b", "spiffe://test.example/*", "spiffe://test.example/web\\x", "spiffe://test.example/~web",
	"spiffe://test.example/" + strings.Repeat("a", maxIDBytes),
}

// Malformed SPIFFE IDs are refused, wherever a process can send one.
func TestMalformedIDs(t *testing.T) {
	if len(malformed) < 40 {
		t.Fatalf("got %d ids, want 40 or more", len(malformed))
	}
	for _, id := range malformed {
		if got, err := parseID(id); err == nil {
			t.Errorf("%q was read as %s", id, got)
		}
		if _, err := checkJWTRequest(&api.JWTSVIDRequest{Audience: []string{"a"}, SpiffeId: id}); err == nil && id != "" {
			t.Errorf("%q was taken for the identity of a token", id)
		}
		if err := checkSecretNames([]string{id}); err == nil {
			t.Errorf("%q was taken for the name of a secret", id)
		}
	}
	for _, id := range []string{webID, "spiffe://test.example", "spiffe://a/b", "spiffe://a-b_c.d/E/f.g/h_i-j/0"} {
		if _, err := parseID(id); err != nil {
			t.Errorf("%q was refused: %v", id, err)
		}
	}
}

// A unit is the first part of a cgroup that is no slice: what a user names below his own manager is no unit of the system.
func TestUnitOfCgroup(t *testing.T) {
	for cgroup, want := range map[string]string{
		"/system.slice/web.service":                                           "web.service",
		"/system.slice/web.service/worker":                                    "web.service",
		"/system.slice/system-getty.slice/getty@tty1.service":                 "getty@tty1.service",
		"/user.slice/user-1000.slice/user@1000.service/app.slice/web.service": "user@1000.service",
		"/user.slice/user-1000.slice/session-3.scope":                         "session-3.scope",
		"/system.slice/_cpu.service":                                          "cpu.service",
		"/init.scope":                                                         "init.scope",
		"/":                                                                   "",
		"":                                                                    "",
		"/docker/0123/web.service":                                            "",
		"/system.slice":                                                       "",
		"/.service":                                                           "",
		"/machine.slice/libpod-0.scope/container/system.slice/database.service": "libpod-0.scope",
	} {
		if got := unitOf(cgroup); got != want {
			t.Errorf("%s: got %q, want %q", cgroup, got, want)
		}
	}
}

func TestParseCgroup(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/web.service\n":                               "/system.slice/web.service",
		"12:pids:/x\n1:name=systemd:/system.slice/web.service\n0::/\n": "/system.slice/web.service",
		"1:name=systemd:/a.service\n0::/b.service\n":                   "/b.service",
		"0::/../outside.service\n":                                     "",
		"0::relative\n":                                                "",
		"garbage":                                                      "",
		"0::/with:colon.service\n":                                     "/with:colon.service",
	} {
		if got := parseCgroup([]byte(text)); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestParseStatus(t *testing.T) {
	good := "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n"
	got, err := parseStatus([]byte(good))
	if err != nil || got.uid != 2 || got.gid != 6 || !slices.Equal(got.groups, []uint32{9, 10}) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "Uid:\t1\t2\t3\t4\n", "Gid:\t1\t2\t3\t4\n", "Uid:\t1\n" + good, "Uid:\t1\t-2\t3\t4\n", "Uid:\t1\t4294967296\t3\t4\n",
		good + "Groups:\tx\n", good + "Groups:\t" + strings.Repeat("1 ", maxGroups+1) + "\n",
	} {
		if got, err := parseStatus([]byte(bad)); err == nil {
			t.Errorf("%.40q was read as %+v", bad, got)
		}
	}
}

// Only an answer that the attested process sent in whole counts, in whatever pieces it comes; other frames go through.
func TestAnswersAreTakenOut(t *testing.T) {
	var asked challenge
	copy(asked[:], "question")
	var text bytes.Buffer
	text.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&text, nil)
	_ = framer.WriteSettings()
	_ = framer.WriteData(1, false, bytes.Repeat([]byte{6}, 100)) // what is within a frame is no frame
	_ = framer.WritePing(false, asked)
	before := bytes.Clone(text.Bytes())
	_ = framer.WritePing(true, asked)
	whole := bytes.Clone(text.Bytes())
	for size := 1; size <= len(whole); size++ {
		for foreignByte := -1; foreignByte < pingFrameLength; foreignByte++ {
			var in incoming
			var out []byte
			var got []bool
			for i := 0; i < len(whole); i += size {
				end := min(i+size, len(whole))
				at := len(before) + foreignByte
				ours := foreignByte < 0 || at < i || at >= end
				out = in.feed(out, whole[i:end], ours, func(c challenge, attested bool) bool {
					got = append(got, attested)
					return c == asked
				})
			}
			if !bytes.Equal(out, before) {
				t.Fatalf("in pieces of %d: the server got %q", size, out)
			}
			if len(got) != 1 || got[0] != (foreignByte < 0) {
				t.Fatalf("in pieces of %d, byte %d of another process: got %v", size, foreignByte, got)
			}
		}
	}
}

// What a process writes into its connection may be anything: nothing of it is lost or made up, and nothing fails.
func FuzzIncoming(f *testing.F) {
	f.Add([]byte(http2.ClientPreface), uint8(3))
	f.Add(wholeRequest(), uint8(7))
	f.Add(append(wholeRequest(), 0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		var in incoming
		var out []byte
		for rest := data; len(rest) > 0; {
			n := min(len(rest), int(step)+1)
			out = in.feed(out, rest[:n], true, func(challenge, bool) bool { return false })
			rest = rest[n:]
		}
		if !bytes.HasPrefix(data, out) || len(data)-len(out) >= pingFrameLength {
			t.Fatalf("%d bytes became %d others", len(data), len(out))
		}
	})
}

// Between frames is where HTTP/2 lets a frame be put in, however the server's writes are cut.
func FuzzOutgoing(f *testing.F) {
	f.Add([]byte{0, 0, 1, 1, 4, 0, 0, 0, 1, 'x', 0, 0, 0, 4, 0, 0, 0, 0, 0}, uint8(2))
	f.Add([]byte{0, 0, 1, 1, 0, 0, 0, 0, 1, 'x', 0, 0, 1, 9, 4, 0, 0, 0, 1, 'y'}, uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		ends := func(step int) (places []int) {
			var out outgoing
			sent := 0
			for rest := data; len(rest) > 0; {
				piece := rest[:min(len(rest), step)]
				for len(piece) > 0 {
					n := out.until(piece)
					if n <= 0 || n > len(piece) {
						t.Fatalf("%d of %d bytes", n, len(piece))
					}
					sent, piece, rest = sent+n, piece[n:], rest[n:]
					if out.between() {
						places = append(places, sent)
					}
				}
			}
			return places
		}
		if whole, cut := ends(len(data)+1), ends(int(step)+1); !slices.Equal(whole, cut) {
			t.Fatalf("cut by %d: got %v, want %v", step, cut, whole)
		}
	})
}

// Texts of /proc are the kernel's, but names in them are the users'.
func FuzzProc(f *testing.F) {
	f.Add([]byte("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n"))
	f.Add([]byte("12:pids:/x\n1:name=systemd:/system.slice/web.service\n0::/\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _ = parseStatus(text) // must not fail otherwise
		cgroup := parseCgroup(text)
		if cgroup != "" && cgroup[0] != '/' || strings.ContainsRune(cgroup, '\n') {
			t.Fatalf("got the cgroup %q", cgroup)
		}
		if unit := unitOf(cgroup); strings.ContainsRune(unit, '/') {
			t.Fatalf("got the unit %q", unit)
		}
	})
}

// Requests are taken in any order with any content, and what is taken stays within bounds.
func FuzzRequests(f *testing.F) {
	seed, _ := proto.Marshal(&discovery.DiscoveryRequest{ResourceNames: []string{webID, allRoots}, TypeUrl: secretType})
	delta, _ := proto.Marshal(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{webID, "*"}, TypeUrl: secretType})
	token, _ := proto.Marshal(&api.JWTSVIDRequest{Audience: []string{"a"}, SpiffeId: webID})
	f.Add(seed, delta, token)
	source := newFakeSource(f, testTD)
	bundles, _, _ := source.Bundles()
	h := held{identities: []Identity{source.issue(webID, "")}, bundles: bundles}
	f.Fuzz(func(t *testing.T, one, two, three []byte) {
		sub := &subscription{}
		var r discovery.DiscoveryRequest
		if proto.Unmarshal(one, &r) == nil {
			if due, err := sub.take(&r); err == nil && due {
				_, _ = sub.respond(h)
			}
		}
		deltaSub := newDelta()
		for _, text := range [][]byte{one, two, two} {
			var d discovery.DeltaDiscoveryRequest
			if proto.Unmarshal(text, &d) != nil {
				continue
			}
			if due, err := deltaSub.take(&d); err == nil && due {
				if _, err := deltaSub.respond(h); err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(deltaSub.known) > 2*maxSecrets || len(sub.names) > maxSecrets {
			t.Fatalf("%d and %d names are kept", len(deltaSub.known), len(sub.names))
		}
		var j api.JWTSVIDRequest
		if proto.Unmarshal(three, &j) == nil {
			if id, err := checkJWTRequest(&j); err == nil && !id.IsZero() && id.String() != j.GetSpiffeId() {
				t.Fatalf("%q became %s", j.GetSpiffeId(), id)
			}
		}
	})
}
