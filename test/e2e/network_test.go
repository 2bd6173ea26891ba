//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/parley-mesh/parley/ops/lab"
)

// network is a switch with hosts, each in a network namespace of its own, the switch too: no address or
// firewall rule of it exists outside. Host i has the name a<i+1>, like the lab's agent that runs there,
// and the address 10.77.0.<i+1>.
type network struct {
	t      testing.TB
	prefix string // of the namespaces' names
	hosts  int
}

// netnsDir is where iproute2 keeps namespaces by name.
const netnsDir = "/run/netns"

var networks atomic.Int32

// newNetwork needs root, iproute2 and nftables. It is gone when the test ends; what a killed test binary
// left behind is removed by the next one.
func newNetwork(t testing.TB, hosts int) *network {
	t.Helper()
	need(t, os.Geteuid() == 0, "root, for network namespaces")
	need(t, found("ip"), "ip (apt-get install iproute2)")
	need(t, found("nft"), "nft (apt-get install nftables)")
	sweepNamespaces(t)
	n := &network{t: t, prefix: fmt.Sprintf("parley-e2e-%d-%d-", os.Getpid(), networks.Add(1)), hosts: hosts}
	t.Cleanup(n.remove)
	out, err := exec.Command("ip", "netns", "add", n.ns("switch")).CombinedOutput()
	need(t, err == nil, fmt.Sprintf("the right to make network namespaces (ip netns add: %v: %s)", err, out))
	n.ip("-n", n.ns("switch"), "link", "add", "br0", "type", "bridge")
	n.ip("-n", n.ns("switch"), "link", "set", "br0", "up")
	for i := range hosts {
		n.addHost(hostName(i))
	}
	return n
}

func found(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

var ownNamespace = regexp.MustCompile(`^parley-e2e-(\d+)-\d+-`)

// sweepNamespaces removes the namespaces of processes that do not exist any more.
func sweepNamespaces(t testing.TB) {
	names, err := filepath.Glob(filepath.Join(netnsDir, "parley-e2e-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range names {
		m := ownNamespace.FindStringSubmatch(filepath.Base(path))
		if m == nil {
			continue
		}
		if pid, err := strconv.Atoi(m[1]); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = exec.Command("ip", "netns", "del", filepath.Base(path)).Run() // another test may be doing the same
		}
	}
}

func hostName(i int) string { return fmt.Sprintf("a%d", i+1) }

func (n *network) ns(host string) string { return n.prefix + host }

func (n *network) addr(host string) string { return "10.77.0." + strings.TrimPrefix(host, "a") }

func (n *network) addHost(host string) {
	n.t.Helper()
	ns, plug := n.ns(host), n.ns("switch")
	n.ip("netns", "add", ns)
	n.ip("-n", plug, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", ns)
	n.ip("-n", plug, "link", "set", host, "master", "br0", "up")
	n.ip("-n", ns, "addr", "add", n.addr(host)+"/24", "dev", "eth0")
	n.ip("-n", ns, "link", "set", "lo", "up")
	n.ip("-n", ns, "link", "set", "eth0", "up")
	n.nft(host, "table inet fault { chain input { type filter hook input priority 0; policy accept; }; }")
}

func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// nft runs commands in a host's namespace, all of them or none.
func (n *network) nft(host, commands string) string {
	n.t.Helper()
	cmd := exec.Command("ip", "netns", "exec", n.ns(host), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(commands)
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("nft %q in %s: %v: %s", commands, host, err, out)
	}
	return string(out)
}

// remove deletes the namespaces, and the links with them.
func (n *network) remove() {
	for _, host := range n.all("switch") {
		if _, err := os.Stat(filepath.Join(netnsDir, n.ns(host))); err != nil {
			continue
		}
		if out, err := exec.Command("ip", "netns", "del", n.ns(host)).CombinedOutput(); err != nil {
			n.t.Errorf("ip netns del %s: %v: %s", n.ns(host), err, out)
		}
	}
}

func (n *network) all(more ...string) []string {
	hosts := more
	for i := range n.hosts {
		hosts = append(hosts, hostName(i))
	}
	return hosts
}

// without is all hosts but some.
func (n *network) without(some ...string) []string {
	var hosts []string
	for _, host := range n.all() {
		if !strings.Contains(" "+strings.Join(some, " ")+" ", " "+host+" ") {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// place puts agent i of a lab on host i.
func (n *network) place(i int) lab.Place {
	host := hostName(i)
	return lab.Place{
		Mesh: n.addr(host) + ":8310", HTTP: "127.0.0.1:8500", DNS: "127.0.0.1:8600",
		Wrap: []string{"ip", "netns", "exec", n.ns(host)},
	}
}

// cut drops what goes from each of from to each of to, of the given protocols (tcp, udp) or of all. It
// is dropped where it arrives: the sender sees no error, only silence.
func (n *network) cut(from, to []string, protocols ...string) {
	n.t.Helper()
	var sources []string
	for _, host := range from {
		sources = append(sources, n.addr(host))
	}
	match := "ip saddr { " + strings.Join(sources, ", ") + " }"
	if len(protocols) > 0 {
		match += " meta l4proto { " + strings.Join(protocols, ", ") + " }"
	}
	for _, host := range to {
		n.nft(host, "add rule inet fault input "+match+" counter drop")
	}
}

// cutBoth drops both ways.
func (n *network) cutBoth(some, others []string, protocols ...string) {
	n.t.Helper()
	n.cut(some, others, protocols...)
	n.cut(others, some, protocols...)
}

// heal ends all cuts.
func (n *network) heal() {
	n.t.Helper()
	for _, host := range n.all() {
		n.nft(host, "flush chain inet fault input")
	}
}

// mend lets host and peer hear each other again, in one step with which the host is cut off from others alone.
func (n *network) mend(host, peer string, others []string) {
	n.t.Helper()
	var sources []string
	for _, other := range others {
		sources = append(sources, n.addr(other))
	}
	n.nft(host, "flush chain inet fault input\nadd rule inet fault input ip saddr { "+strings.Join(sources, ", ")+" } counter drop")
	n.nft(peer, "flush chain inet fault input")
}

var counted = regexp.MustCompile(`counter packets (\d+)`)

// dropped is how many packets the present cuts have dropped on their way to a host.
func (n *network) dropped(host string) int {
	n.t.Helper()
	sum := 0
	for _, m := range counted.FindAllStringSubmatch(n.nft(host, "list chain inet fault input"), -1) {
		packets, err := strconv.Atoi(m[1])
		if err != nil {
			n.t.Fatal(err)
		}
		sum += packets
	}
	return sum
}

// inside runs f in a host's namespace: sockets that it opens itself are in there, for good.
func (n *network) inside(host string, f func() error) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		// The thread ends with this goroutine, because it is never unlocked.
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open(filepath.Join(netnsDir, n.ns(host)))
			if err != nil {
				return err
			}
			defer ns.Close() //nolint:errcheck // only read
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", ns.Name(), err)
			}
			return f()
		}()
	}()
	if err := <-done; err != nil {
		n.t.Fatalf("in the namespace of %s: %v", host, err)
	}
}
