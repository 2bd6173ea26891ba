package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "parley.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every wrong value is refused by a message that names the key and says what would be right.
func TestProblems(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string // one for each problem, in order; each is "key: part of the message"
	}{
		{"misspelt key", "data_dri = \"/x\"", []string{"data_dri: unknown key, did you mean data_dir?"}},
		{"misspelt key in a section", "[mesh]\nbindd = \"0.0.0.0:1\"", []string{"mesh.bindd: unknown key, did you mean mesh.bind?"}},
		{"key outside its section", "leaf_ttl = \"1h\"", []string{"leaf_ttl: unknown key, did you mean identity.leaf_ttl?"}},
		{"key nothing is near to", "colour = \"red\"", []string{"colour: unknown key"}},
		{"misspelt section", "[gosip]\nprofile = \"fast\"", []string{"gosip: unknown section, did you mean gossip?"}},
		{"text for a section", "mesh = \"0.0.0.0:1\"", []string{"mesh: unknown key"}},
		{"table for a key", "[name]\nx = 1", []string{"name: wants a text in quotes"}},
		{"number for text", "name = 7", []string{"name: wants a text in quotes"}},
		{"text for bool", "[core]\neligible = \"yes\"", []string{"core.eligible: wants true or false"}},
		{"text for number", "[core]\nelection_ticks = \"10\"", []string{"core.election_ticks: wants a whole number"}},
		{"number for duration", "[core]\nreplace_after = 10", []string{"core.replace_after: wants a duration in quotes"}},
		{"text for list", "join = \"10.0.0.1:8310\"", []string{"join: wants a list of texts"}},
		{"list of numbers", "join = [1]", []string{"join: wants a list of texts"}},
		{"duration without a unit", "[core]\ntick = \"50\"", []string{"core.tick: \"50\" is not a duration"}},
		{"duration out of range", "[core]\ntick = \"1us\"", []string{"core.tick: 1µs is not between 10ms and 1s"}},
		{"a lab's haste in a cluster", "[ops]\ntime_scale = 60", []string{"ops.time_scale: above 1 it is for labs"}},
		{"too much haste", "[ops]\ntime_scale = 1000\n[mesh]\nbind = \"127.0.0.1:8310\"", []string{"ops.time_scale: 1000 is not between 1 and 100"}},
		{"number out of range", "[core]\nelection_ticks = 1", []string{"core.election_ticks: 1 is not between 5 and 100"}},
		{"number beyond int", "[core]\nelection_ticks = 9223372036854775807", []string{"core.election_ticks: 9223372036854775807 is not"}},
		{"upper case name", "name = \"Web1\"", []string{"name: \"Web1\" is not a name"}},
		{"name with a slash", "name = \"a/b\"", []string{"name: \"a/b\" is not a name"}},
		{"name of dots", "name = \"..\"", []string{"name: \"..\" is not a name"}},
		{"name too long", "name = \"" + strings.Repeat("a", 64) + "\"", []string{"name: "}},
		{"bind without a port", "[mesh]\nbind = \"10.0.0.1\"", []string{"mesh.bind: \"10.0.0.1\" is not an IP address with a port"}},
		{"bind to a name", "[mesh]\nbind = \"localhost:8310\"", []string{"mesh.bind: "}},
		{"port zero", "[mesh]\nbind = \"10.0.0.1:0\"", []string{"mesh.bind: \"10.0.0.1:0\" has no usable port"}},
		{"port too large", "[mesh]\nbind = \"10.0.0.1:70000\"", []string{"mesh.bind: "}},
		{"advertised wildcard", "[mesh]\nadvertise = \"0.0.0.0:8310\"", []string{"mesh.advertise: \"0.0.0.0:8310\" is not an address that another agent can reach"}},
		{"http on every address", "[http]\nbind = \"0.0.0.0:8500\"", []string{"http.bind: refusing to serve HTTP on 0.0.0.0:8500"}},
		{"http on every IPv6 address", "[http]\nbind = \"[::]:8500\"", []string{"http.bind: refusing"}},
		{"http on the network", "[http]\nbind = \"10.0.0.1:8500\"", []string{"http.bind: refusing"}},
		{"http on a relative socket", "[http]\nbind = \"unix://http.sock\"", []string{"http.bind: \"unix://http.sock\" needs an absolute path"}},
		{"backups in a relative directory", "[backup]\ndir = \"backups\"", []string{"backup.dir: \"backups\" is not an absolute path"}},
		{"http on interfaces", "[http]\nallow_interfaces = [\"docker0\"]", []string{"http.allow_interfaces: refusing to serve HTTP on docker0"}},
		{"role", "[http]\nanonymous_role = \"operater\"", []string{"http.anonymous_role: \"operater\" is not one of none, discovery, local, operator; did you mean operator?"}},
		{"join without a port", "join = [\"10.0.0.1\"]", []string{"join: \"10.0.0.1\" is not a host with a port"}},
		{"too many joins", "join = [" + strings.Repeat("\"a:1\",", maxJoin+1) + "]", []string{"join: 65 addresses are more than 64"}},
		{"syntax", "name = ", []string{"line 1: "}},
		{"several at once", "nmae = \"a\"\nzone = \"A\"\n[http]\nbind = \"0.0.0.0:8500\"\n[core]\ntick = 3",
			[]string{"core.tick: wants a duration", "nmae: unknown key, did you mean name?", "zone: ", "http.bind: refusing"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, tt.text)
			_, err := Load(path)
			var problems *ProblemsError
			if !errors.As(err, &problems) {
				t.Fatalf("Load: got %v, want a *ProblemsError", err)
			}
			if len(problems.Problems) != len(tt.want) {
				t.Fatalf("got %d problems, want %d:\n%v", len(problems.Problems), len(tt.want), err)
			}
			for i, want := range tt.want {
				if got := problems.Problems[i].String(); !strings.HasPrefix(got, want) {
					t.Errorf("problem %d:\n got %s\nwant %s...", i, got, want)
				}
			}
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%q does not name the file %s", err, path)
			}
		})
	}
}

// A file that is right loads with its values in place and the defaults around them.
func TestLoad(t *testing.T) {
	path := write(t, `
data_dir = "/srv/parley"
name = "web-1.a_b"
join = ["10.0.0.1:8310", "seed.example.com:8310", "[fd00::1]:8310"]
[mesh]
bind = "10.0.0.7:9000"
[http]
bind = "unix:///run/parley/http.sock"
[https]
bind = "0.0.0.0:8501"
[core]
eligible = false
replace_after = "90s"
election_ticks = 20
`)
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.DataDir, want.Name = "/srv/parley", "web-1.a_b"
	want.Join = []string{"10.0.0.1:8310", "seed.example.com:8310", "[fd00::1]:8310"}
	want.Mesh = Mesh{Bind: "10.0.0.7:9000", Advertise: "10.0.0.7:9000"}
	want.HTTP.Bind = "unix:///run/parley/http.sock"
	want.HTTPS.Bind = "0.0.0.0:8501"
	want.Core.Eligible, want.Core.ReplaceAfter, want.Core.ElectionTicks = false, 90*time.Second, 20
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestLoadNoSuchFile(t *testing.T) {
	_, err := Load("/nonexistent/parley.toml")
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want not exist", err)
	}
}

// A file beyond the limit is refused rather than read.
func TestLoadTooLarge(t *testing.T) {
	_, err := Load(write(t, "#"+strings.Repeat("x", maxFileBytes)))
	if err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v, want larger than", err)
	}
}

// Flags win over the file, and a problem with a flag's value names the flag.
func TestOverrides(t *testing.T) {
	path := write(t, "name = \"file\"\n[mesh]\nbind = \"10.0.0.1:1\"")
	c, err := Load(path,
		Override{Key: "name", Value: "flag", Source: "--name"},
		Override{Key: "join", Value: "a:1, b:2", Source: "--join"},
		Override{Key: "core.eligible", Value: "false"},
		Override{Key: "core.election_ticks", Value: "7"},
		Override{Key: "core.tick", Value: "20ms"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "flag" || c.Mesh.Bind != "10.0.0.1:1" || !reflect.DeepEqual(c.Join, []string{"a:1", "b:2"}) ||
		c.Core.Eligible || c.Core.ElectionTicks != 7 || c.Core.Tick != 20*time.Millisecond {
		t.Errorf("got %+v", c)
	}
	_, err = Load("",
		Override{Key: "http.bind", Value: "0.0.0.0:8500", Source: "--http"},
		Override{Key: "core.tikc", Value: "1s"},
		Override{Key: "core.eligible", Value: "perhaps"},
		Override{Key: "core.election_ticks", Value: "many"})
	for _, want := range []string{"4 problems", "--http: refusing", "core.tikc: unknown key, did you mean core.tick?",
		"core.eligible: wants true or false", "core.election_ticks: wants a whole number"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	var problems *ProblemsError
	if !errors.As(err, &problems) || !strings.Contains(problems.Hint(), "127.0.0.1:8500") {
		t.Errorf("got no hint with a loopback address in %v", err)
	}
}

// The example shows every key, each with a comment, and loading it gives the defaults.
func TestExample(t *testing.T) {
	got, err := Load(write(t, Example()))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.complete(systemHost())
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	lines := strings.Split(Example(), "\n")
	for _, f := range fields(&want) {
		name := afterDot(f.key)
		found := false
		for i, line := range lines {
			if strings.HasPrefix(strings.TrimPrefix(line, "# "), name+" = ") {
				found = true
				if !strings.HasPrefix(lines[i-1], "# ") {
					t.Errorf("%s stands without a comment", f.key)
				}
			}
		}
		if !found {
			t.Errorf("%s is missing from the example", f.key)
		}
	}
}

// With every commented-out line turned on, the example still passes, except for what it says is refused.
func TestExampleValues(t *testing.T) {
	c := Default()
	for _, f := range fields(&c) {
		if example, ok := f.tag.Lookup("example"); ok && f.key != "http.allow_interfaces" && f.key != "identity.workload_api" && !strings.HasPrefix(f.key, "attest.") {
			if err := f.parse(example); err != nil {
				t.Errorf("%s: %v", f.key, err)
			}
		}
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	other := Default() // what other examples are about excludes it
	other.DataDir, other.Identity.Source = c.DataDir, SourceWorkloadAPI
	for _, f := range fields(&other) {
		if f.key == "identity.workload_api" {
			if err := f.parse(f.tag.Get("example")); err != nil {
				t.Error(err)
			}
		}
	}
	attested := Default() // so do those of a host that joins by a certificate
	attested.DataDir, attested.Attest.Kind = c.DataDir, "ssh"
	for _, f := range fields(&attested) {
		if example, ok := f.tag.Lookup("example"); ok && strings.HasPrefix(f.key, "attest.") {
			if err := f.parse(example); err != nil {
				t.Errorf("%s: %v", f.key, err)
			}
		}
	}
	if err := attested.Validate(); err != nil {
		t.Error(err)
	}
	for what, spoil := range map[string]func(*Config){
		"attest.key_file": func(c *Config) { c.Attest.KeyFile = "" }, "attest.roots": func(c *Config) { c.Attest.Roots = []string{"00"} },
		"token_file": func(c *Config) { c.TokenFile = "/t" }, "attest.cert_file": func(c *Config) { c.Attest.Kind = AttestToken },
		"attest.kind": func(c *Config) { c.Identity.Source = SourceWorkloadAPI },
	} {
		bad := attested
		spoil(&bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want something about %s", err, what)
		}
	}
	if err := other.Validate(); err != nil {
		t.Error(err)
	}
}

// A profile gives other defaults. What was set stays; the default spelled out, as the example file has
// it, does not count as set in the file, and does as a flag.
func TestProfile(t *testing.T) {
	beside := Override{Key: "profile", Value: "beside-consul", Source: "--profile"}
	for _, tt := range []struct {
		what, file string
		overrides  []Override
		http, dns  string
	}{
		{"none", "", nil, "127.0.0.1:8500", "127.0.0.1:8600"},
		{"by flag", "", []Override{beside}, "127.0.0.1:18500", "127.0.0.1:18600"},
		{"in the file", "profile = \"beside-consul\"", nil, "127.0.0.1:18500", "127.0.0.1:18600"},
		{"with the whole example", Example(), []Override{beside}, "127.0.0.1:18500", "127.0.0.1:18600"},
		{"set in the file", "profile = \"beside-consul\"\n[http]\nbind = \"127.0.0.1:9\"", nil, "127.0.0.1:9", "127.0.0.1:18600"},
		{"set by a flag", "", []Override{beside, {Key: "http.bind", Value: "127.0.0.1:8500"}}, "127.0.0.1:8500", "127.0.0.1:18600"},
		{"taken back by a flag", "profile = \"beside-consul\"", []Override{{Key: "profile", Value: "default"}}, "127.0.0.1:8500", "127.0.0.1:8600"},
	} {
		c, err := Load(write(t, tt.file), tt.overrides...)
		if err != nil || c.HTTP.Bind != tt.http || c.DNS.Bind != tt.dns {
			t.Errorf("%s: %s and %s, %v", tt.what, c.HTTP.Bind, c.DNS.Bind, err)
		}
	}
	_, err := Load("", Override{Key: "profile", Value: "beside-consol", Source: "--profile"})
	if err == nil || !strings.Contains(err.Error(), "did you mean beside-consul?") {
		t.Errorf("a misspelt profile: %v", err)
	}
	c, err := Load("../../deploy/beside-consul.toml")
	if err != nil || c.HTTP.Bind != "127.0.0.1:18500" || c.DNS.Bind != "127.0.0.1:18600" {
		t.Errorf("deploy/beside-consul.toml: %+v, %v", c, err)
	}
}

func TestDeployedExample(t *testing.T) {
	got, err := os.ReadFile("../../deploy/parley.toml")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != Example() {
		t.Error("deploy/parley.toml is not the generated example; run: go run ./cmd/agent config default > deploy/parley.toml")
	}
}

func TestDataDir(t *testing.T) {
	env := map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "/state"}
	getenv := func(k string) string { return env[k] }
	for _, tt := range []struct {
		uid  int
		xdg  string
		want string
	}{{0, "/state", "/var/lib/parley"}, {1000, "/state", "/state/parley"}, {1000, "", "/home/u/.local/state/parley"},
		{1000, "relative", "/home/u/.local/state/parley"}} {
		env["HOME"], env["XDG_STATE_HOME"] = "/home/u", tt.xdg
		if got := dataDir(host{uid: tt.uid, getenv: getenv}); got != tt.want {
			t.Errorf("uid %d, XDG_STATE_HOME %q: got %s, want %s", tt.uid, tt.xdg, got, tt.want)
		}
	}
}

// Without a home there is no default: relative to the current directory, each directory would be another agent.
func TestNoDefaultDataDir(t *testing.T) {
	for _, home := range []string{"", "relative"} {
		user := host{uid: 1000, getenv: func(name string) string { return map[string]string{"HOME": home}[name] }, addrs: interfaceAddrs}
		c := Default()
		if c.complete(user); c.DataDir != "" {
			t.Errorf("HOME %q: the data directory is %s", home, c.DataDir)
		}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "data_dir: there is no default") {
			t.Errorf("HOME %q: got %v, want an error about data_dir", home, err)
		}
		c = Default()
		c.DataDir = "/srv/parley"
		if c.complete(user); c.DataDir != "/srv/parley" || c.Validate() != nil {
			t.Errorf("HOME %q: given: got %s, %v", home, c.DataDir, c.Validate())
		}
	}
}

func TestAdvertise(t *testing.T) {
	for _, tt := range []struct{ name, bind, advertise, addrs, want string }{
		{"a bound address is its own", "10.0.0.7:9000", "", "10.0.0.1", "10.0.0.7:9000"},
		{"given wins", "0.0.0.0:8310", "10.9.9.9:1", "10.0.0.1", "10.9.9.9:1"},
		{"first not loopback", "0.0.0.0:8310", "", "127.0.0.1 ::1 10.0.0.1 10.0.0.2", "10.0.0.1:8310"},
		{"link-local is passed over", "0.0.0.0:8310", "", "169.254.0.1 fe80::1 10.0.0.1", "10.0.0.1:8310"},
		{"IPv6 only when bound", "0.0.0.0:8310", "", "127.0.0.1 fd00::1", "127.0.0.1:8310"},
		{"IPv6", "[::]:8310", "", "::1 fe80::1 fd00::1", "[fd00::1]:8310"},
		{"IPv4 before IPv6", "[::]:8310", "", "fd00::1 10.0.0.1", "10.0.0.1:8310"},
		{"no network", "0.0.0.0:8310", "", "127.0.0.1", "127.0.0.1:8310"},
		{"no network, IPv6", "[::]:8310", "", "", "[::1]:8310"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Default()
			c.Mesh = Mesh{Bind: tt.bind, Advertise: tt.advertise}
			c.complete(host{getenv: func(string) string { return "" }, addrs: func() (list []netip.Addr) {
				for _, a := range strings.Fields(tt.addrs) {
					list = append(list, netip.MustParseAddr(a))
				}
				return list
			}})
			if c.Mesh.Advertise != tt.want {
				t.Errorf("got %s, want %s", c.Mesh.Advertise, tt.want)
			}
		})
	}
}

func TestCleanName(t *testing.T) {
	for raw, want := range map[string]string{
		"Web-1.Example.COM":                "web-1.example.com",
		"joe's laptop":                     "joe-s-laptop",
		"-x-":                              "x",
		"ünï":                              "n",
		"..":                               "",
		strings.Repeat("a", 62) + ".b":     strings.Repeat("a", 62),
		strings.Repeat("a", 70) + ".local": strings.Repeat("a", 63),
	} {
		got := cleanName(raw)
		if got != want {
			t.Errorf("cleanName(%q): got %q, want %q", raw, got, want)
		}
		if got != "" && !ValidName(got) {
			t.Errorf("cleanName(%q) = %q, which is not a valid name", raw, got)
		}
	}
}

func TestNearest(t *testing.T) {
	candidates := []string{"status", "members", "core", "kv", "token"}
	for word, want := range map[string]string{
		"stauts": "status", "member": "members", "cor": "core", "tokne": "token", "zzzzzzz": "", "memberlist": "members",
	} {
		if got := Nearest(word, candidates); got != want {
			t.Errorf("Nearest(%q): got %q, want %q", word, got, want)
		}
	}
}

// Whatever a file holds, Load answers with a Config or an error.
func FuzzDecode(f *testing.F) {
	f.Add(Example())
	f.Add("[mesh]\nbind = 3\n[[core]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := Default()
		var p problems
		c.decode(text, &p)
		c.check(&p)
	})
}
