package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/parley-mesh/parley/security/federation"
)

// maxNameBytes is the longest node and zone name.
const maxNameBytes = 63

// maxJoin is the most join addresses that a file may list.
const maxJoin = 64

// unixScheme marks a bind address that is a socket in the file system.
const unixScheme = "unix://"

// check applies the field's check tag, "kind" or "kind:arguments". It returns nil when all is well.
func (f field) check() *Problem {
	kind, args, _ := strings.Cut(f.tag.Get("check"), ":")
	switch kind {
	case "":
		return nil
	case "name":
		return checkName(f.value.String())
	case "oneof":
		return checkOneOf(f.value.String(), strings.Fields(args))
	case "absolute":
		return checkAbsolute(f.value.String())
	case "listen":
		return checkListen(f.value.String(), f.tag.Get("default") == "")
	case "advertise":
		return checkAdvertise(f.value.String())
	case "local":
		return checkLocal(f.value.String())
	case "interfaces":
		return checkInterfaces(f.value.Interface().([]string))
	case "unix":
		return checkUnix(f.value.String())
	case "socket":
		return checkSocket(f.value.String())
	case "federation":
		return checkFederation(f.value.Interface().([]string))
	case "peers":
		return checkPeers(f.value.Interface().([]string))
	case "between":
		low, high, _ := strings.Cut(args, " ")
		return checkBetween(f.value.Interface().(time.Duration), mustDuration(low), mustDuration(high))
	case "range":
		low, high, _ := strings.Cut(args, " ")
		return checkRange(f.value.Int(), mustInt(low), mustInt(high))
	}
	panic("config: field " + f.key + " has the unknown check " + kind)
}

func checkName(name string) *Problem {
	if name == "" || ValidName(name) {
		return nil
	}
	return &Problem{
		Message: fmt.Sprintf("%q is not a name", name),
		Hint:    "a name is 1 to 63 of a-z, 0-9, dot, dash and underscore, and starts with a letter or a digit",
	}
}

// ValidName reports whether name may be a node's or a zone's name.
func ValidName(name string) bool {
	if name == "" || len(name) > maxNameBytes || !isAlnum(name[0]) {
		return false
	}
	for i := range len(name) {
		if !isAlnum(name[i]) && !strings.ContainsRune("._-", rune(name[i])) {
			return false
		}
	}
	return true
}

func isAlnum(b byte) bool { return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' }

// checkAbsolute refuses a path whose meaning depends on where the agent was started.
func checkAbsolute(path string) *Problem {
	if path == "" || filepath.IsAbs(path) {
		return nil
	}
	return &Problem{
		Message: fmt.Sprintf("%q is not an absolute path", path),
		Hint:    "begin it with /: a service is started in another directory than you are",
	}
}

func checkOneOf(value string, allowed []string) *Problem {
	if slices.Contains(allowed, value) {
		return nil
	}
	message := fmt.Sprintf("%q is not one of %s", value, strings.Join(allowed, ", "))
	if near := Nearest(value, allowed); near != "" {
		message += fmt.Sprintf("; did you mean %s?", near)
	}
	return &Problem{Message: message}
}

func checkListen(value string, optional bool) *Problem {
	if value == "" && optional {
		return nil
	}
	_, problem := parseAddr(value)
	return problem
}

func parseAddr(value string) (netip.AddrPort, *Problem) {
	addr, err := netip.ParseAddrPort(value)
	if err != nil {
		return addr, &Problem{
			Message: fmt.Sprintf("%q is not an IP address with a port", value),
			Hint:    "write an address like 127.0.0.1:8500, 0.0.0.0:8310 or [::1]:8500",
		}
	}
	if addr.Port() == 0 {
		return addr, &Problem{Message: fmt.Sprintf("%q has no usable port; choose one from 1 to 65535", value)}
	}
	return addr, nil
}

func checkAdvertise(value string) *Problem {
	if value == "" {
		return nil
	}
	addr, problem := parseAddr(value)
	if problem != nil {
		return problem
	}
	if addr.Addr().IsUnspecified() || addr.Addr().IsMulticast() {
		return &Problem{
			Message: fmt.Sprintf("%q is not an address that another agent can reach", value),
			Hint:    "give the address of the network interface that the other hosts see",
		}
	}
	return nil
}

// checkLocal keeps the API that asks for no identity away from the network.
func checkLocal(value string) *Problem {
	if path, ok := strings.CutPrefix(value, unixScheme); ok {
		if !strings.HasPrefix(path, "/") {
			return &Problem{Message: fmt.Sprintf("%q needs an absolute path, like unix:///run/parley/http.sock", value)}
		}
		return nil
	}
	addr, problem := parseAddr(value)
	if problem != nil {
		return problem
	}
	if !addr.Addr().IsLoopback() {
		return &Problem{
			Message: fmt.Sprintf("refusing to serve HTTP on %s: callers there need no identity, "+
				"so it may only be loopback or a Unix socket", value),
			Hint: fmt.Sprintf("use 127.0.0.1:%d or unix:///run/parley/http.sock; "+
				"for other hosts set https.bind, which asks for a client certificate", addr.Port()),
		}
	}
	return nil
}

func checkInterfaces(names []string) *Problem {
	if len(names) == 0 {
		return nil
	}
	return &Problem{
		Message: fmt.Sprintf("refusing to serve HTTP on %s: requests there need an API token, "+
			"and this release has none", strings.Join(names, ", ")),
		Hint: "leave http.allow_interfaces empty and mount a Unix socket (http.bind = \"unix:///path\") into the container",
	}
}

// checkSocket takes the path of a socket, or that there is to be none.
func checkSocket(path string) *Problem {
	if path == "off" {
		return nil
	}
	return checkAbsolute(path)
}

// checkUnix takes the address of a socket, or none.
func checkUnix(value string) *Problem {
	if path, ok := strings.CutPrefix(value, unixScheme); value == "" || ok && filepath.IsAbs(path) {
		return nil
	}
	return &Problem{
		Message: fmt.Sprintf("%q is not the address of a socket", value),
		Hint:    "write it like unix:///run/spire/sockets/agent.sock; the Workload API is never asked over a network",
	}
}

func checkFederation(texts []string) *Problem {
	if len(texts) > federation.MaxPeers {
		return &Problem{Message: fmt.Sprintf("%d trust domains are more than %d", len(texts), federation.MaxPeers)}
	}
	for _, text := range texts {
		if _, _, err := federation.ParsePeer(text); err != nil {
			return &Problem{Message: fmt.Sprintf("%q: %s", text, err)}
		}
	}
	return nil
}

func checkPeers(peers []string) *Problem {
	if len(peers) > maxJoin {
		return &Problem{Message: fmt.Sprintf("%d addresses are more than %d; a few are enough", len(peers), maxJoin)}
	}
	for _, peer := range peers {
		host, port, err := net.SplitHostPort(peer)
		n, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || portErr != nil || host == "" || n == 0 {
			return &Problem{
				Message: fmt.Sprintf("%q is not a host with a port", peer),
				Hint:    "write the mesh address of an agent, like 10.0.0.1:8310 or node-1.example.com:8310",
			}
		}
	}
	return nil
}

func checkBetween(d, low, high time.Duration) *Problem {
	if d >= low && d <= high {
		return nil
	}
	return &Problem{Message: fmt.Sprintf("%s is not between %s and %s",
		shortDuration(d), shortDuration(low), shortDuration(high))}
}

func checkRange(n, low, high int64) *Problem {
	if n >= low && n <= high {
		return nil
	}
	return &Problem{Message: fmt.Sprintf("%d is not between %d and %d", n, low, high)}
}

func mustDuration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		panic("config: check tag: " + err.Error())
	}
	return d
}

func mustInt(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic("config: check tag: " + err.Error())
	}
	return n
}
