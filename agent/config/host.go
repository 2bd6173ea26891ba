package config

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// host is what the defaults depend on; tests bring their own.
type host struct {
	uid    int
	getenv func(string) string
	addrs  func() []netip.Addr // of the interfaces that are up, in the system's order
}

func systemHost() host {
	return host{uid: os.Geteuid(), getenv: os.Getenv, addrs: interfaceAddrs}
}

// complete fills in the data directory and the advertised address. The name stays as given, since the
// data directory may already hold one.
func (c *Config) complete(h host) {
	if c.DataDir == "" {
		c.DataDir = dataDir(h)
	}
	if abs, err := filepath.Abs(c.DataDir); err == nil && c.DataDir != "" {
		c.DataDir = abs
	}
	bind, err := netip.ParseAddrPort(c.Mesh.Bind)
	if c.Mesh.Advertise != "" || err != nil || bind.Port() == 0 {
		return
	}
	addr := bind.Addr()
	if addr.IsUnspecified() {
		addr = reachable(h.addrs(), addr)
	}
	c.Mesh.Advertise = netip.AddrPortFrom(addr, bind.Port()).String()
}

// DefaultDataDir is the data directory when none is configured, "" when the user has none: there is neither a
// XDG_STATE_HOME nor a HOME to keep it in.
func DefaultDataDir() string { return dataDir(systemHost()) }

func dataDir(h host) string {
	if h.uid == 0 {
		return "/var/lib/parley"
	}
	if state := h.getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "parley")
	}
	if home := h.getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "parley")
	}
	return ""
}

// reachable chooses the first address that other hosts may see. IPv4 goes first because a bind to [::]
// serves both. A host without a network gets loopback: a single agent still has to start there.
func reachable(addrs []netip.Addr, bind netip.Addr) netip.Addr {
	var v6 netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.IsLoopback() || a.IsLinkLocalUnicast() || !a.IsGlobalUnicast() {
			continue
		}
		if a.Is4() {
			return a
		}
		if !v6.IsValid() {
			v6 = a
		}
	}
	switch {
	case v6.IsValid() && bind.Is6():
		return v6
	case bind.Is6():
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func interfaceAddrs() []netip.Addr {
	var list []netip.Addr
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				list = append(list, prefix.Addr())
			}
		}
	}
	return list
}

// HostName is the name for an agent that was given none: the host's, in lower case, with everything that
// a name may not hold replaced by a dash.
func HostName() (string, error) {
	raw, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("host name: %w; give the agent a name", err)
	}
	name := cleanName(raw)
	if name == "" {
		return "", fmt.Errorf("host name %q cannot be used as a name; give the agent a name", raw)
	}
	return name, nil
}

func cleanName(raw string) string {
	name := strings.Map(func(r rune) rune {
		if r < 128 && (isAlnum(byte(r)) || strings.ContainsRune("._-", r)) {
			return r
		}
		return '-'
	}, strings.ToLower(raw))
	name = strings.TrimLeft(name, "._-")
	return strings.TrimRight(name[:min(len(name), maxNameBytes)], "._-")
}
