package agent

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops"
)

// resultOf finds a check by id; several ports and addresses have one each, so the message tells them apart.
func resultOf(t *testing.T, report ops.CheckReport, id, message string) ops.CheckResult {
	t.Helper()
	for _, c := range report.Checks {
		if c.ID == id && strings.Contains(c.Message, message) {
			return c
		}
	}
	t.Fatalf("no check %q with %q in %+v", id, message, report)
	return ops.CheckResult{}
}

// preConfig is for a host on which everything is free.
func preConfig(t *testing.T) config.Config {
	t.Helper()
	cfg, err := config.Load("", config.Override{Key: "data_dir", Value: filepath.Join(t.TempDir(), "not", "made", "yet")},
		config.Override{Key: "name", Value: "a9"}, config.Override{Key: "mesh.bind", Value: freeAddr(t)},
		config.Override{Key: "http.bind", Value: freeAddr(t)}, config.Override{Key: "dns.bind", Value: freeAddr(t)})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Before the install nothing is left behind, and the measured disk is a real one.
func TestPrecheckChangesNothing(t *testing.T) {
	cfg := preConfig(t)
	report := Precheck(t.Context(), cfg)
	if c := resultOf(t, report, "data-dir", "can be written"); c.Status != ops.CheckOK {
		t.Errorf("%+v", c)
	}
	for _, id := range []string{"mesh.bind-tcp", "mesh.bind-udp", "http.bind-tcp", "dns.bind-udp", "platform", "open-files"} {
		if c := resultOf(t, report, id, ""); c.Status == ops.CheckFail {
			t.Errorf("%+v", c)
		}
	}
	at := filepath.Dir(filepath.Dir(filepath.Dir(cfg.DataDir)))
	if left, err := os.ReadDir(at); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// An agent is found by TCP and, without a certificate, by UDP; its ports, its directory and its cluster
// are seen as what they are.
func TestPrecheckMeetsAnAgent(t *testing.T) {
	cfg := single(t)
	runFor(t, cfg, nil, func(*client.Client) {
		free, err := net.ListenPacket("udp", "127.0.0.1:0") // never answers
		if err != nil {
			t.Fatal(err)
		}
		defer free.Close() //nolint:errcheck // only a socket
		nobody := freeAddr(t)
		pre := preConfig(t)
		pre.Join = []string{cfg.Mesh.Bind, nobody, free.LocalAddr().String()}
		report := Precheck(t.Context(), pre)
		for _, want := range []struct {
			id, addr string
			status   ops.CheckStatus
		}{
			{"join-tcp", cfg.Mesh.Bind + " is reached", ops.CheckOK},
			{"join-udp", cfg.Mesh.Bind + " answers by UDP", ops.CheckOK},
			{"join-tcp", nobody, ops.CheckFail},
			{"join-udp", "nothing serves UDP at " + nobody, ops.CheckWarn},
			{"join-udp", free.LocalAddr().String() + " does not answer", ops.CheckWarn},
		} {
			if c := resultOf(t, report, want.id, want.addr); c.Status != want.status {
				t.Errorf("%+v, want %s", c, want.status)
			}
		}
		if !isParley(t.Context(), cfg.HTTP.Bind) || isParley(t.Context(), nobody) {
			t.Error("an agent does not say that it is one, or nobody does")
		}
		pre = preConfig(t)
		pre.Mesh.Bind, pre.HTTP.Bind = cfg.Mesh.Bind, cfg.HTTP.Bind
		report = Precheck(t.Context(), pre)
		for id, message := range map[string]string{
			"mesh.bind-tcp": "by another program", "mesh.bind-udp": "by another program", "http.bind-tcp": "by another Parley agent",
		} {
			if c := resultOf(t, report, id, "is taken "+message); c.Status != ops.CheckFail {
				t.Errorf("%+v", c)
			}
		}
		report = Precheck(t.Context(), cfg)
		if c := resultOf(t, report, "data-dir", ""); c.Status != ops.CheckFail || !strings.Contains(c.Message, "an agent (pid ") {
			t.Errorf("a directory in use: %+v", c)
		}
		for _, c := range report.Checks {
			if c.ID == "http.bind-tcp" {
				t.Errorf("the running agent's own ports count against it: %+v", c)
			}
		}
	})
	if c := resultOf(t, Precheck(t.Context(), cfg), "data-dir", "belongs to cluster"); c.Status != ops.CheckOK {
		t.Errorf("after the agent ended: %+v", c)
	}
}

func TestPrecheckUnwritable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root writes everywhere")
	}
	cfg := preConfig(t)
	cfg.DataDir = "/proc/parley"
	if c := resultOf(t, Precheck(t.Context(), cfg), "data-dir", "cannot be made"); c.Status != ops.CheckFail {
		t.Errorf("%+v", c)
	}
}

// A name that DNS gives to this host, or to nobody, is this host's.
func TestElsewhere(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	for _, tt := range []struct {
		found, want []string
	}{
		{nil, nil}, {[]string{"127.0.1.1"}, nil}, {[]string{"10.0.0.1"}, nil}, {[]string{"::ffff:10.0.0.1"}, nil},
		{[]string{"10.0.0.2", "fd00::1"}, nil}, {[]string{"10.0.0.2", "10.0.0.3"}, []string{"10.0.0.2", "10.0.0.3"}},
	} {
		var found []netip.Addr
		for _, text := range tt.found {
			found = append(found, netip.MustParseAddr(text))
		}
		if got := elsewhere(found, own); !slices.Equal(got, tt.want) {
			t.Errorf("%v: got %v, want %v", tt.found, got, tt.want)
		}
	}
}

// A process is found by its name, and one that does not exist is not (the control).
func TestHasProcess(t *testing.T) {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Skip("no /proc here")
	}
	if !hasProcess(strings.TrimSpace(string(comm))) || hasProcess("no-such-process") {
		t.Error("this process is not found by its name, or one that is not there is")
	}
}

// Only a list of versions for our own id counts as an answer.
func TestIsVersionList(t *testing.T) {
	_, id := unknownVersion()
	good := append(append([]byte{0x80, 0, 0, 0, 0, 8}, id...), 0)
	if !isVersionList(good, id) {
		t.Error("a list of versions is not taken for one")
	}
	for what, edit := range map[string]func([]byte) []byte{
		"short header":  func(b []byte) []byte { b[0] = 0x40; return b },
		"a version":     func(b []byte) []byte { b[4] = 1; return b },
		"another id":    func(b []byte) []byte { b[6] ^= 1; return b },
		"another size":  func(b []byte) []byte { b[5] = 4; return b },
		"cut":           func(b []byte) []byte { return b[:6] },
		"nothing":       func([]byte) []byte { return nil },
		"one that ends": func(b []byte) []byte { return b[:len(b)-1] },
	} {
		if isVersionList(edit(slices.Clone(good)), id) {
			t.Errorf("%s: taken for an answer", what)
		}
	}
}

// The wait for an answer by UDP ends with its caller.
func TestProbeUDPStops(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() //nolint:errcheck // only a socket
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	if got := probeUDP(ctx, silent.LocalAddr().String()); got != ops.UDPSilent || time.Since(began) > udpTries*udpWait {
		t.Errorf("got %s after %s", got, time.Since(began))
	}
}
