package consul

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/consul"
)

// harness is what the test servers of the client's own tests always write.
const harness = `{"node_name":"node-D2","node_id":"d2f3946d-98be-fca8-5fb3-7aa03e3e1a50","performance":{"raft_multiplier":1},
"bootstrap":true,"server":true,"data_dir":"/tmp/d","segments":null,"disable_update_check":true,"log_level":"debug",
"bind_addr":"127.0.0.1","addresses":{},"ports":{"dns":1001,"http":1002,"https":1003,"serf_lan":1004,"serf_wan":1005,
"server":1006,"grpc":1007,"grpc_tls":1008},"acl":{"tokens":{}},"connect":{"ca_config":{"cluster_id":"11111111-2222-3333-4444-555555555555"},
"enabled":true},"skip_leave_on_interrupt":true,"peering":{"enabled":true},"version":"1.16.2"}`

// write makes a file in a new directory and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func translated(args ...string) (*settings, config.Config, error) {
	g, err := parseFlags(args)
	if err != nil {
		return nil, config.Config{}, err
	}
	s, err := translate(g)
	if err != nil {
		return nil, config.Config{}, err
	}
	cfg, err := s.config()
	return s, cfg, err
}

// The configuration of the client's test servers becomes ours without a word of warning.
func TestHarnessConfiguration(t *testing.T) {
	s, cfg, err := translated("-config-file", write(t, "config.json", harness))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(cfg.Name, cfg.DataDir, cfg.Mesh.Bind, cfg.HTTP.Bind, cfg.HTTP.AnonymousRole, cfg.DNS.Bind, cfg.Log.Level, cfg.HTTPS.Bind, s.trustDomain(), cfg.Dialect.Datacenter, fmt.Sprintf("%x", s.nodeID))
	want := fmt.Sprint("node-d2", "/tmp/d", "127.0.0.1:1004", "127.0.0.1:1002", "operator", "127.0.0.1:1001", "debug", "", "11111111-2222-3333-4444-555555555555.consul", "dc1", "d2f3946d98befca85fb37aa03e3e1a50")
	if got != want || len(s.ignored) > 0 {
		t.Errorf("got  %s\nwant %s\nignored %v", got, want, s.ignored)
	}
}

// The last source wins, key by key, and flags win over files.
func TestLastWins(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"1.json": `{"datacenter":"dir1","ports":{"dns":9001}}`, "2.json": `{"datacenter":"dir2"}`, "readme.txt": `no configuration`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := write(t, "a.json", `{"node_name":"a","datacenter":"a","data_dir":"/tmp/d","ports":{"http":9000},"log_level":"ERR"}`)
	last := write(t, "b.json", `{"node_name":"b","datacenter":null}`)
	empty := write(t, "c.json", "\n")
	for _, tt := range []struct {
		args string
		want string // name, datacenter, http, dns
	}{
		{"-config-file " + first, "a a 127.0.0.1:9000 127.0.0.1:8600"},
		{"-config-file " + first + " --config-file=" + last + " -config-file " + empty, "b a 127.0.0.1:9000 127.0.0.1:8600"},
		{"-config-file " + last + " -config-file " + first, "a a 127.0.0.1:9000 127.0.0.1:8600"},
		{"-config-file " + first + " -config-dir " + dir, "a dir2 127.0.0.1:9000 127.0.0.1:9001"},
		{"-config-dir " + dir + " -config-file " + first, "a a 127.0.0.1:9000 127.0.0.1:9001"},
		{"-http-port 7000 -node=flag -datacenter east -config-file " + first + " -server", "flag east 127.0.0.1:7000 127.0.0.1:8600"},
		{"-data-dir /tmp/d -node n -client 127.0.0.9 -dns-port -1", "n dc1 127.0.0.9:8500 127.0.0.1:8600"},
	} {
		_, cfg, err := translated(strings.Fields(tt.args)...)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		if got := fmt.Sprint(cfg.Name, " ", cfg.Dialect.Datacenter, " ", cfg.HTTP.Bind, " ", cfg.DNS.Bind); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.args, got, tt.want)
		}
	}
}

// What would leave the caller with less protection than asked for, or alone in a cluster of its own, is refused; all of
// it at once, by the names that the caller used.
func TestRefusedConfiguration(t *testing.T) {
	for _, tt := range []struct{ json, want string }{
		{`{"bind_addr":"0.0.0.0"}`, "bind_addr: 0.0.0.0 is refused"},
		{`{"client_addr":"10.0.0.1"}`, "client_addr: 10.0.0.1 is refused"},
		{`{"advertise_addr":"10.0.0.1"}`, "advertise_addr: 10.0.0.1 is refused"},
		{`{"node_id":"me"}`, `node_id: "me" is not the text of a UUID`},
		{`{"addresses":{"http":"0.0.0.0"}}`, "addresses.http: 0.0.0.0 is refused"},
		{`{"addresses":{"http":"unix://relative"}}`, "absolute path"},
		{`{"acl":{"enabled":true,"default_policy":"deny"}}`, "acl.enabled: tokens are not offered"},
		{`{"acl_default_policy":"deny"}`, "acl_default_policy: tokens"},
		{`{"segments":[{"name":"x"}]}`, "segments: "}, {`{"bootstrap_expect":3}`, "bootstrap_expect: "},
		{`{"primary_datacenter":"dc2"}`, "primary_datacenter: "}, {`{"node_nam":"x"}`, "node_nam: unknown key, did you mean node_name?"},
		{`{"ports":{"http":-1}}`, "ports.http: a port"}, {`{"ports":{"htp":1}}`, "ports.htp: unknown key, did you mean ports.http?"},
		{`{"ports":{"http":80.5}}`, "ports.http: a port"}, {`{"ports":"80"}`, "ports: unknown key"},
		{`{"node_name":7}`, "node_name: a text"}, {`{"node_name":"a/b"}`, `node_name: "a/b" is not a name`},
		{`{"services":[]}`, "services: unknown key"}, {`{"log_level":"loud"}`, "log_level: "},
		{`{"datacenter":"a b"}`, "datacenter: "}, {`[]`, "config.json"}, {`{"node_name":`, "config.json"},
		{`{"bind_addr":"0.0.0.0","nope":1}`, "bind_addr: 0.0.0.0 is refused"}, {`{"bind_addr":"0.0.0.0","nope":1}`, "nope: unknown key"},
		{strings.Repeat(`{"a":`, 9) + "1" + strings.Repeat("}", 9), "nests deeper"},
		{`{"node_name":"` + strings.Repeat("x", maxFileBytes) + `"}`, "more than 1048576 bytes"},
	} {
		_, _, err := translated("-data-dir", "/tmp/d", "-config-file", write(t, "config.json", tt.json))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60s: got %v, want %q in it", tt.json, err, tt.want)
		}
	}
	for args, want := range map[string]string{
		"": "data_dir", "-dev -data-dir /tmp/d": "data_dir", "-nope": "-nope", "-data-dir /tmp/d word": "word", "-http-port x": "http-port",
		"-config-file /does/not/exist": "no such file", "-config-dir /does/not/exist": "no such file", "-config-file x.hcl": "JSON", "-h": "loopback",
		strings.Repeat("-config-file x ", maxFiles+1): "more than 64",
	} {
		if _, _, err := translated(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %q in it", args, err, want)
		}
	}
}

// What is taken without effect says why that is safe, and says so at start where a user would miss it.
func TestIgnoredKeysHaveReasons(t *testing.T) {
	for _, e := range entries {
		if (e.take == nil) != (len(e.why) > 10) {
			t.Errorf("%s: an entry either translates or has its reason", e.path)
		}
	}
	s, _, err := translated("-data-dir", "/tmp/d", "-config-file", write(t, "config.json",
		`{"encrypt":"pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=","node_meta":{"k":"v"},"retry_join":["10.0.0.1"],"ca_file":"x","enable_script_checks":true,
		"verify_incoming_https":true,"raft_protocol":3,"autopilot":{"server_stabilization_time":"1s"},"acl":{"tokens":{"master":"root"},"enabled":false},"enable_debug":true}`))
	if err != nil {
		t.Fatal(err)
	}
	var about []string
	for _, i := range s.ignored {
		about = append(about, i.key)
	}
	if want := []string{"ca_file", "enable_script_checks", "encrypt", "node_meta.k", "retry_join"}; !slices.Equal(about, want) {
		t.Errorf("warned about %v, want %v", about, want)
	}
}

// A data directory is taken when it is new, empty or marked as ours; anything else is somebody's.
func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	claimed := func(wantFresh, wantOK bool) {
		t.Helper()
		if fresh, err := claim(dir); fresh != wantFresh || (err == nil) != wantOK {
			t.Errorf("got %v, %v, want %v, %v", fresh, err, wantFresh, wantOK)
		}
	}
	claimed(true, true) // it is not there
	if err := os.MkdirAll(filepath.Join(dir, "identity"), 0o700); err != nil {
		t.Fatal(err)
	}
	claimed(true, true) // founding was interrupted
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("a half-made identity stayed: %v, %v", entries, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cluster.toml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	claimed(false, true)
	if err := os.Remove(filepath.Join(dir, marker)); err != nil {
		t.Fatal(err)
	}
	claimed(false, false) // a real cluster's
	dir = t.TempDir()
	claimed(true, true) // it is empty
	dir = filepath.Dir(write(t, "thesis.txt", "years of work"))
	claimed(false, false)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("a refused directory has %d files now, %v", len(entries), err)
	}
}

// The version is the dialect's, the same that the API claims.
func TestCommandLine(t *testing.T) {
	for args, want := range map[string]string{
		"version -format=json": `{"Version":"` + consul.Version + `"}`, "version -format json": `{"Version":`, "version": "Consul v" + consul.Version,
		"--version": "Consul v", "-v": "Consul v", "": "throw-away", "help": "throw-away",
	} {
		var out bytes.Buffer
		if err := run(t.Context(), strings.Fields(args), &out); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%q: %v, got %s, want %s", args, err, out.String(), want)
		}
	}
	if err := run(t.Context(), []string{"kv", "get"}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), `no command "kv"`) {
		t.Errorf("an unknown command: %v", err)
	}
	for name, want := range map[string]bool{"consul": true, "/usr/bin/consul": true, "parley": false, "consul-template": false, "": false} {
		if got := Called([]string{name}); got != want {
			t.Errorf("Called(%q) is %v", name, got)
		}
	}
}
