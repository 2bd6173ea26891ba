package consul

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/parley-mesh/parley/agent/config"
)

// entry is what becomes of a key. One without take is accepted and has no effect; why says why that is safe.
type entry struct {
	path string // ends in * for everything below
	take func(*settings, any) error
	why  string
	warn bool // say so at start when it asks for something
}

// entries are all keys that there are for us.
var entries = []entry{
	{path: "data_dir", take: func(s *settings, v any) error { return str(&s.dataDir, v) }},
	{path: "node_name", take: takeName},
	{path: "node_id", take: takeNodeID}, // of the agent that founds the cluster, and there is no other
	{path: "datacenter", take: func(s *settings, v any) error { return str(&s.datacenter, v) }},
	{path: "primary_datacenter", take: func(s *settings, v any) error { return str(&s.primary, v) }},
	{path: "log_level", take: takeLogLevel},
	{path: "bind_addr", take: func(s *settings, v any) error { return loopback(&s.bind, v) }},
	{path: "client_addr", take: func(s *settings, v any) error { return loopback(&s.client, v) }},
	{path: "advertise_addr", take: func(_ *settings, v any) error { return loopback(new(netip.Addr), v) }}, // the one of bind_addr is used
	{path: "addresses.http", take: takeHTTP},
	{path: "ports.http", take: port("http", 1)},
	{path: "ports.serf_lan", take: port("serf_lan", 1)}, // the mesh port, for everything between agents
	{path: "ports.dns", take: port("dns", -1)},
	{path: "connect.ca_config.cluster_id", take: func(s *settings, v any) error { return str(&s.clusterID, v) }},
	{path: "bootstrap_expect", take: takeExpect},
	{path: "segments", take: refuseSet("network segments are not offered")},
	// Whoever asks for tokens must not get a listener that asks for none.
	{path: "acl.enabled", take: refuseSet("tokens are not offered by this version, and without them every caller on loopback may do everything")},
	{path: "acl_default_policy", take: refuseUnless("allow", "tokens are not offered by this version")},

	{path: "acl.*", why: "nothing asks for tokens while acl.enabled is refused"},
	{path: "acl_datacenter", why: "nothing asks for tokens, see acl.enabled"},
	{path: "node_meta.*", why: "the catalog keeps no metadata of nodes: a search by it finds nothing, and nothing else", warn: true},
	{path: "performance.*", why: "the one voter elects itself at once, whatever the timing"},
	{path: "bootstrap", why: "a cluster of one is founded in any case"},
	{path: "server", why: "a cluster of one needs a server, so this agent is one"},
	{path: "retry_join", why: "this agent stays alone, and so hears and believes nobody; agents join by parley token create", warn: true},
	{path: "disable_update_check", why: "nothing calls home"},
	{path: "raft_protocol", why: "there is one version, and one member who speaks it"},
	{path: "autopilot.*", why: "it decides about servers that come and go, and there is one"},
	{path: "connect.enabled", why: "the roots are there in any case, and nothing else of it is served"},
	{path: "peering.enabled", why: "no endpoint of it is served"},
	{path: "skip_leave_on_interrupt", why: "an interrupt never makes an agent leave"},
	{path: "version", why: "it describes the program, which knows its own"},
	{path: "enable_script_checks", why: "no checks run yet, so no script can", warn: true},
	{path: "enable_local_script_checks", why: "no checks run yet, so no script can", warn: true},
	{path: "enable_debug", why: "it only adds endpoints, which are not served"},
	{path: "ui", why: "it only adds pages, which are not served"},
	{path: "ui_config.enabled", why: "it only adds pages, which are not served"},

	// What would protect bytes on a network. Between agents everything is mutual TLS with identities of its own, and
	// the listeners for programs are loopback; https is not opened at all, so nothing is served there unverified.
	{path: "encrypt", why: "gossip is always encrypted, with a certificate for each agent instead of a shared key", warn: true},
	{path: "ca_file", why: "agents bring their own authority, and https is not opened", warn: true},
	{path: "cert_file", why: "agents have certificates of their own, and https is not opened", warn: true},
	{path: "key_file", why: "agents have keys of their own, and https is not opened", warn: true},
	{path: "verify_incoming", why: "agents always verify each other, and https is not opened"},
	{path: "verify_incoming_rpc", why: "agents always verify each other"},
	{path: "verify_incoming_https", why: "https is not opened"},
	{path: "verify_outgoing", why: "agents always verify each other"},

	// Ports that stay closed.
	{path: "ports.https", why: "not opened: callers there would need an identity of this cluster"},
	{path: "ports.serf_wan", why: "not opened: there is one datacenter"},
	{path: "ports.server", why: "not opened: agents speak on the port of serf_lan"},
	{path: "ports.grpc", why: "not opened: no xDS is served"},
	{path: "ports.grpc_tls", why: "not opened: no xDS is served"},
	{path: "ports.proxy_min_port", why: "no proxies are run"},
	{path: "ports.proxy_max_port", why: "no proxies are run"},
	{path: "addresses.https", why: "not opened, see ports.https"},
	{path: "addresses.dns", why: "the name service is not served by this version"},
	{path: "addresses.grpc", why: "not opened, see ports.grpc"},
	{path: "addresses.grpc_tls", why: "not opened, see ports.grpc"},
}

// entryOf finds the key itself, else what stands for everything around it.
func entryOf(path string) (entry, bool) {
	for _, e := range entries {
		prefix, open := strings.CutSuffix(e.path, "*")
		if e.path == path || open && strings.HasPrefix(path, prefix) {
			return e, true
		}
	}
	return entry{}, false
}

func isSection(path string) bool {
	return slices.ContainsFunc(entries, func(e entry) bool { return strings.HasPrefix(e.path, path+".") })
}

func nearest(path string) string {
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.path
	}
	if near := config.Nearest(path, names); near != "" {
		return ", did you mean " + near + "?"
	}
	return ""
}

func str(into *string, v any) error {
	text, ok := v.(string)
	if !ok {
		return errors.New("a text is needed")
	}
	*into = text
	return nil
}

// takeName folds the case: names of ours are lower case, and clients compare without it.
func takeName(s *settings, v any) error {
	err := str(&s.name, v)
	s.name = strings.ToLower(s.name)
	return err
}

func takeNodeID(s *settings, v any) error {
	var text string
	if err := str(&text, v); err != nil || text == "" {
		return err
	}
	id, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(id) != len(s.nodeID) || len(text) != 36 {
		return fmt.Errorf("%q is not the text of a UUID", text)
	}
	s.nodeID = [16]byte(id)
	return nil
}

func takeLogLevel(s *settings, v any) error {
	if err := str(&s.logLevel, v); err != nil {
		return err
	}
	s.logLevel = strings.ToLower(s.logLevel)
	switch s.logLevel {
	case "trace":
		s.logLevel = "debug"
	case "err":
		s.logLevel = "error"
	}
	return nil
}

// loopback takes an address on which only this host can call. Anything wider is refused: the callers of this agent
// need no identity.
func loopback(into *netip.Addr, v any) error {
	var text string
	if err := str(&text, v); err != nil || text == "" {
		return err
	}
	if text == "localhost" {
		text = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not an IP address", text)
	case !addr.IsLoopback():
		return fmt.Errorf("%s is refused: callers need no identity here, so it serves loopback only; "+
			"for a network run parley agent, where the mesh and https are mutual TLS", addr)
	}
	*into = addr
	return nil
}

func takeHTTP(s *settings, v any) error {
	var text string
	if err := str(&text, v); err != nil || text == "" {
		return err
	}
	if strings.HasPrefix(text, "unix://") {
		s.http = text
		return nil
	}
	var addr netip.Addr
	if err := loopback(&addr, v); err != nil {
		return err
	}
	s.http = addr.String()
	return nil
}

// port takes a port number of at least low.
func port(name string, low int) func(*settings, any) error {
	return func(s *settings, v any) error {
		n, ok := v.(float64)
		if !ok || n != math.Trunc(n) || n < float64(low) || n > math.MaxUint16 {
			return fmt.Errorf("a port from %d to %d is needed", low, math.MaxUint16)
		}
		s.ports[name] = int(n)
		return nil
	}
}

func takeExpect(_ *settings, v any) error {
	if n, ok := v.(float64); !ok || n > 1 {
		return errors.New("this is a cluster of one; more agents join one that parley init made")
	}
	return nil
}

// refuseSet takes a value that asks for nothing.
func refuseSet(why string) func(*settings, any) error {
	return func(_ *settings, v any) error {
		if empty(v) {
			return nil
		}
		return errors.New(why)
	}
}

func refuseUnless(want, why string) func(*settings, any) error {
	return func(_ *settings, v any) error {
		if empty(v) || v == want {
			return nil
		}
		return errors.New(why)
	}
}
