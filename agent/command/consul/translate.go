package consul

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/parley-mesh/parley/agent/command"
	"github.com/parley-mesh/parley/agent/config"
)

// The ports that hold where none is given, as programs expect them.
const (
	defaultHTTP = 8500
	defaultDNS  = 8600
	defaultMesh = 8301
)

// segmentMiB is the least there is: to write 64 MiB of zeros is most of a start's time on a busy disk.
const segmentMiB = "16"

// settings is what the configuration means for us.
type settings struct {
	dev        bool
	dataDir    string
	name       string
	nodeID     [16]byte // zero when none is given
	datacenter string
	primary    string
	clusterID  string
	logLevel   string
	bind       netip.Addr // of the mesh
	client     netip.Addr // of what has no address of its own
	http       string     // an IP address, or unix:// and a path; "" for client
	ports      map[string]int
	ignored    []ignored
}

// ignored is a key that asks for something that is not done.
type ignored struct{ key, why string }

// translate reads everything that was given, and reports all that is wrong with it at once.
func translate(g given) (*settings, error) {
	tree, err := readAll(g.sources)
	if err != nil {
		return nil, err
	}
	merge(tree, g.tree)
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	s := &settings{
		dev: g.dev, datacenter: "dc1", bind: loopback, client: loopback,
		ports: map[string]int{"http": defaultHTTP, "dns": defaultDNS, "serf_lan": defaultMesh},
	}
	problems := s.walk("", tree)
	if s.dataDir == "" && !s.dev {
		problems = append(problems, "data_dir: a directory is needed, or -dev for a temporary one")
	}
	if s.dataDir != "" && s.dev {
		problems = append(problems, "data_dir: -dev keeps nothing, choose one of the two")
	}
	if s.primary != "" && s.primary != s.datacenter {
		problems = append(problems, fmt.Sprintf("primary_datacenter: %q is not this datacenter, and there is one only", s.primary))
	}
	if len(problems) > 0 {
		return nil, command.UsageError("consul here is one throw-away agent on loopback; what else a cluster needs is in parley agent --help",
			"consul agent: %s", strings.Join(problems, "\n  "))
	}
	return s, nil
}

// walk gives each key to its entry, in order, so that the report is stable.
func (s *settings) walk(prefix string, tree map[string]any) (problems []string) {
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		path, value := prefix+name, tree[name]
		if value == nil {
			continue
		}
		e, known := entryOf(path)
		below, isTree := value.(map[string]any)
		switch {
		case known && e.take != nil:
			if err := e.take(s, value); err != nil {
				problems = append(problems, path+": "+err.Error())
			}
		case known:
			if e.warn && !empty(value) {
				s.ignored = append(s.ignored, ignored{path, e.why})
			}
		case isTree && isSection(path):
			problems = append(problems, s.walk(path+".", below)...)
		default:
			problems = append(problems, path+": unknown key"+nearest(path))
		}
	}
	return problems
}

// empty reports whether the value asks for nothing.
func empty(v any) bool {
	switch v := v.(type) {
	case string:
		return v == ""
	case bool:
		return !v
	case float64:
		return v == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return v == nil
}

// overrides are the same settings as ours, each with the name that the user knows.
func (s *settings) overrides() []config.Override {
	http, httpKey := s.http, "addresses.http"
	switch {
	case http == "":
		http, httpKey = netip.AddrPortFrom(s.client, uint16(s.ports["http"])).String(), "ports.http"
	case !strings.HasPrefix(http, "unix://"):
		http = netip.AddrPortFrom(netip.MustParseAddr(http), uint16(s.ports["http"])).String()
	}
	port := func(name string) string { return strconv.Itoa(s.ports[name]) }
	list := []config.Override{
		{Key: "data_dir", Value: s.dataDir, Source: "data_dir"},
		{Key: "name", Value: s.name, Source: "node_name"},
		{Key: "dialect.datacenter", Value: s.datacenter, Source: "datacenter"},
		{Key: "mesh.bind", Value: s.bind.String() + ":" + port("serf_lan"), Source: "ports.serf_lan"},
		{Key: "http.bind", Value: http, Source: httpKey},
		{Key: "http.anonymous_role", Value: "operator"},
		{Key: "gossip.profile", Value: "fast"},
		{Key: "core.segment_mib", Value: segmentMiB},
	}
	if s.bind.Is6() {
		list[3].Value = "[" + s.bind.String() + "]:" + port("serf_lan")
	}
	if s.ports["dns"] > 0 {
		list = append(list, config.Override{Key: "dns.bind", Value: netip.AddrPortFrom(s.client, uint16(s.ports["dns"])).String(), Source: "ports.dns"})
	}
	if s.logLevel != "" {
		list = append(list, config.Override{Key: "log.level", Value: s.logLevel, Source: "log_level"})
	}
	return list
}

// trustDomain is the cluster id that clients know their certificates by, else the datacenter.
func (s *settings) trustDomain() string {
	if s.clusterID != "" {
		return s.clusterID + ".consul"
	}
	return s.datacenter + ".consul"
}
