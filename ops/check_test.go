package ops

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// well is a cluster of four allowed agents with a core of three, without a complaint.
func well() CheckFacts {
	return CheckFacts{
		CertificateLeft: 40 * time.Minute, CertificateLife: time.Hour, OutageLeft: 40 * time.Minute, OutageOf: "x", CertificateLeast: 0.6, LeaderKnown: true, Size: 3, AllowedInCore: 4,
		Voters: []CheckMember{
			{Name: "a1", Zone: "z1", Healthy: true, Alive: true},
			{Name: "a2", Zone: "z2", Healthy: true, Alive: true},
			{Name: "a3", Zone: "z3", Healthy: true, Alive: true},
		},
		AnonymousRole: "discovery", DiskFreeBytes: 50 << 30, DiskKnown: true, Versions: map[string]int{"v1": 4}, Scrubbed: true,
		SafeWindow: 10 * time.Minute,
	}
}

// Each fact moves its own check and no other; without a fault nothing is said.
func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		what string
		edit func(*CheckFacts)
		want string // "id status runbook, ..." of what is not ok
	}{
		{"all is well", func(*CheckFacts) {}, ""},
		{"certificate at a third", func(f *CheckFacts) { f.CertificateLeft = 19 * time.Minute }, "certificate warn "},
		{"certificate at a sixth", func(f *CheckFacts) { f.CertificateLeft = 9 * time.Minute }, "certificate fail "},
		{"certificate expired", func(f *CheckFacts) { f.CertificateLeft = -time.Minute }, "certificate fail "},
		{"a program's certificate at a third", func(f *CheckFacts) { f.CertificateLeast = 0.32 }, "certificates warn certificate-expires"},
		{"a program's certificate at a sixth", func(f *CheckFacts) { f.CertificateLeast = 0.16 }, "certificates fail certificate-expires"},
		{"a link has ended", func(f *CheckFacts) { f.OutageLeft = 0 }, "certificates fail certificate-expires"},
		{"a root ends", func(f *CheckFacts) { f.RootLeft = 89 * 24 * time.Hour }, "certificates warn certificate-expires"},
		{"a root of ten years", func(f *CheckFacts) { f.RootLeft = 87600 * time.Hour }, ""},
		{"a host was copied", func(f *CheckFacts) { f.Copied = []string{"a7"} }, "copies fail host-copied"},
		{"a full disk", func(f *CheckFacts) { f.Generations = "no space left on device" }, "generations warn certificate-expires"},
		{"damaged generations", func(f *CheckFacts) { f.Generations, f.Unread = "it holds no generations", true }, "generations fail certificate-expires"},
		{"no TPM", func(f *CheckFacts) { f.SealTrouble = "there is no TPM" }, "root-seal warn data-loss"},
		{"safe mode", func(f *CheckFacts) { f.SafeMode = 2 }, "safe-mode warn crash-loop"},
		{"a window for tests", func(f *CheckFacts) { f.SafeWindow = time.Second }, "safe-mode warn "},
		{"a split", func(f *CheckFacts) { f.EpochAtOdds = "a3 lives in epoch 2" }, "epoch fail "},
		{"no leader", func(f *CheckFacts) { f.LeaderKnown = false }, "leader fail server-down, quorum-margin fail server-down"},
		{"a voter is down", func(f *CheckFacts) { f.Voters[1].Healthy = false }, "quorum-margin fail server-down, voters warn firewall"},
		{"a voter is not seen by gossip", func(f *CheckFacts) { f.Voters[1].Alive = false }, "voters warn firewall"},
		{"two voters are down", func(f *CheckFacts) { f.Voters[0].Healthy, f.Voters[1].Healthy = false, false },
			"quorum-margin fail server-down, voters warn firewall"},
		{"one voter", func(f *CheckFacts) { f.Voters = f.Voters[:1] }, "quorum-margin warn , core-size warn "},
		{"no voters known", func(f *CheckFacts) { f.Voters = nil }, "quorum-margin fail server-down, core-size warn "},
		{"an agent outside the core is dead", func(f *CheckFacts) { f.Dead = []string{"n4"} }, "members warn server-down"},
		{"five wanted", func(f *CheckFacts) { f.Size = 5 }, "core-size warn , core-allowed warn "},
		{"no spare", func(f *CheckFacts) { f.AllowedInCore = 3 }, "core-allowed warn "},
		{"one zone", func(f *CheckFacts) { f.Voters[1].Zone, f.Voters[2].Zone = "z1", "z1" }, "zones warn "},
		{"no zones", func(f *CheckFacts) { f.Voters[0].Zone, f.Voters[1].Zone, f.Voters[2].Zone = "", "", "" }, "zones warn "},
		{"a learner is silent", func(f *CheckFacts) { f.Learners = []CheckMember{{Name: "a4"}} }, "learners warn "},
		{"a learner is behind", func(f *CheckFacts) {
			f.Learners = []CheckMember{{Name: "a4", Healthy: true, Behind: 10_001, BehindKnown: true}}
		}, "learners warn "},
		{"a learner keeps up", func(f *CheckFacts) {
			f.Learners = []CheckMember{{Name: "a4", Healthy: true, Behind: 10_000, BehindKnown: true}}
		}, ""},
		{"two versions", func(f *CheckFacts) { f.Versions = map[string]int{"v1": 3, "v2": 1} }, "versions warn "},
		{"clock behind", func(f *CheckFacts) { f.ClockAhead = 2 * time.Second }, "clock warn "},
		{"clock far behind", func(f *CheckFacts) { f.ClockAhead = time.Minute }, "clock fail "},
		{"little space", func(f *CheckFacts) { f.DiskFreeBytes = 500 << 20 }, "disk warn "},
		{"no space", func(f *CheckFacts) { f.DiskFreeBytes = 1 << 20 }, "disk fail "},
		{"space not known", func(f *CheckFacts) { f.DiskKnown = false }, "disk warn "},
		{"a key is readable", func(f *CheckFacts) { f.WideFiles = []string{"identity/host.key (0644)"} }, "files fail "},
		{"damage", func(f *CheckFacts) { f.ScrubErrors, f.ScrubFirstFile = 2, "wal/1.wal" }, "storage fail data-corruption"},
		{"not scrubbed", func(f *CheckFacts) { f.Scrubbed = false }, ""},
		{"open to local programs", func(f *CheckFacts) { f.AnonymousRole = "local" }, "anonymous-role warn "},
		{"open to all", func(f *CheckFacts) { f.AnonymousRole = "operator" }, "anonymous-role warn "},
		{"closed", func(f *CheckFacts) { f.AnonymousRole = "none" }, ""},
	} {
		f := well()
		tt.edit(&f)
		wantReport(t, tt.what, Check(f), tt.want)
	}
}

func wantReport(t *testing.T, what string, report CheckReport, want string) {
	t.Helper()
	var got []string
	ok := true
	for _, c := range report.Checks {
		if c.Message == "" || (c.Status == CheckOK) != (c.Hint == "") {
			t.Errorf("%s: %+v has no message, or no hint where one is due", what, c)
		}
		if c.Status != CheckOK {
			got = append(got, fmt.Sprintf("%s %s %s", c.ID, c.Status, c.Runbook))
		}
		ok = ok && c.Status != CheckFail
	}
	if text := strings.Join(got, ", "); text != want || report.OK != ok {
		t.Errorf("%s: got %q, ok %t, want %q, ok %t", what, text, report.OK, want, ok)
	}
}

// wellHost is a host without a complaint.
func wellHost() PreFacts {
	return PreFacts{
		DataDir: "/var/lib/parley", Fsync: 300 * time.Microsecond, DiskFree: 20 << 30, DiskKnown: true, Year: 2026,
		Wall: 200 * time.Millisecond, Elapsed: 200 * time.Millisecond, MaxFiles: 65536, PeerCred: true, OS: "linux",
		Name: "web-1", Advertise: "10.0.0.1:8310",
		Ports: []PrePort{{Key: "mesh.bind", Addr: "0.0.0.0:8310", Network: "udp"}, {Key: "http.bind", Addr: "127.0.0.1:8500", Network: "tcp"}},
		Join:  []PreJoin{{Addr: "10.0.0.2:8310", UDP: UDPAnswers}},
	}
}

func TestPrecheck(t *testing.T) {
	taken := func(f *PreFacts) { f.Ports[1].Taken, f.Ports[1].Err = true, "address in use" }
	for _, tt := range []struct {
		what string
		edit func(*PreFacts)
		want string
	}{
		{"all is well", func(*PreFacts) {}, ""},
		{"another system", func(f *PreFacts) { f.OS = "darwin" }, "platform warn "},
		{"no SO_PEERCRED", func(f *PreFacts) { f.PeerCred = false }, "platform fail "},
		{"not writable", func(f *PreFacts) { f.DataDirErr = "permission denied" }, "data-dir fail , fsync warn "},
		{"an agent runs", func(f *PreFacts) { f.InUse = "pid 7" }, "data-dir fail "},
		{"no room for a socket", func(f *PreFacts) { f.SocketExcess = 3 }, "data-dir fail "},
		{"a member already", func(f *PreFacts) { f.Belongs = "c0ffee" }, ""},
		{"in memory", func(f *PreFacts) { f.FileSystem = "tmpfs" }, "file-system warn "},
		{"over the network", func(f *PreFacts) { f.FileSystem = "nfs" }, "file-system fail "},
		{"slow disk", func(f *PreFacts) { f.Fsync = 30 * time.Millisecond }, "fsync warn "},
		{"very slow disk", func(f *PreFacts) { f.Fsync = time.Second }, "fsync fail "},
		{"full disk", func(f *PreFacts) { f.DiskFree = 0 }, "disk fail "},
		{"no battery", func(f *PreFacts) { f.Year = 1970 }, "clock fail "},
		{"clock set meanwhile", func(f *PreFacts) { f.Wall = -time.Hour }, "clock warn "},
		{"clock a little off", func(f *PreFacts) { f.Wall += time.Millisecond }, ""},
		{"few files", func(f *PreFacts) { f.MaxFiles = 4096 }, "open-files warn "},
		{"very few files", func(f *PreFacts) { f.MaxFiles = 256 }, "open-files fail "},
		{"no name", func(f *PreFacts) { f.NameErr = "host name cannot be used" }, "name fail "},
		{"somebody's name", func(f *PreFacts) { f.Elsewhere = []string{"10.9.9.9"} }, "name warn "},
		{"loopback", func(f *PreFacts) { f.AdvertLoop = true }, "advertise warn "},
		{"port taken", taken, "http.bind-tcp fail "},
		{"port taken by another agent", func(f *PreFacts) {
			taken(f)
			f.Ports[1].Parley = true
			f.Consul, f.Profile = []string{"process consul"}, "beside-consul"
		}, "http.bind-tcp fail "},
		{"not our address", func(f *PreFacts) { f.Ports[0].Err = "cannot assign requested address" }, "mesh.bind-udp fail "},
		{"beside Consul", func(f *PreFacts) { f.Consul = []string{"process consul"} }, "consul warn "},
		{"beside Consul, on its port", func(f *PreFacts) { taken(f); f.Consul = []string{"port 8500"} }, "http.bind-tcp fail , consul warn "},
		{"beside Consul, with the profile", func(f *PreFacts) { f.Consul, f.Profile = []string{"process consul"}, "beside-consul" }, ""},
		{"nobody there", func(f *PreFacts) { f.Join[0].TCP, f.Join[0].UDP = "connection refused", UDPRefused }, "join-tcp fail firewall, join-udp warn firewall"},
		{"UDP dropped", func(f *PreFacts) { f.Join[0].UDP = UDPSilent }, "join-udp warn firewall"},
	} {
		f := wellHost()
		tt.edit(&f)
		wantReport(t, tt.what, Precheck(f), tt.want)
	}
}

// The hint for a port that Consul holds is the profile, since nobody stops their Consul to try something.
func TestPrecheckProposesTheProfile(t *testing.T) {
	f := wellHost()
	f.Ports[1].Taken, f.Consul = true, []string{"process consul", "port 8500"}
	for _, c := range Precheck(f).Checks {
		if c.Status != CheckOK && !strings.Contains(c.Hint, "--profile beside-consul") {
			t.Errorf("%+v does not propose the profile", c)
		}
	}
}

// A check that never warns is no check: every id but those of ports is moved by some row above.
func TestCheckIDs(t *testing.T) {
	ids := map[string]bool{}
	for _, c := range append(Check(well()).Checks, Precheck(wellHost()).Checks...) {
		ids[c.ID] = true
	}
	want := []string{
		"advertise", "anonymous-role", "certificate", "certificates", "clock", "consul", "copies", "core-allowed", "core-size", "data-dir", "disk", "epoch", "file-system",
		"files", "fsync", "generations", "http.bind-tcp", "join-tcp", "join-udp", "leader", "learners", "members", "mesh.bind-udp", "name", "open-files", "platform",
		"quorum-margin", "root-seal", "safe-mode", "storage", "versions", "voters", "zones",
	}
	if got := slices.Sorted(maps.Keys(ids)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The dead are named, so many as fit into a line.
func TestCheckNamesTheDead(t *testing.T) {
	names := strings.Fields("n1 n2 n3 n4 n5 n6 n7 n8 n9")
	for n, want := range map[int]string{1: "1 agent is dead: n1", 2: "2 agents are dead: n1, n2", 9: "9 agents are dead: n1, n2, n3, n4, n5, n6, n7, n8 and others"} {
		f := well()
		f.Dead = names[:n]
		if got := f.members().Message; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
