package ops

import (
	"fmt"
	"strings"
	"time"
)

// Where the checks before an install warn and fail.
const (
	fsyncWarn = 20 * time.Millisecond
	fsyncFail = 250 * time.Millisecond // half of the time after which voters elect another leader

	filesWarn = 8192 // a connection of the mesh and of a client is a file each
	filesFail = 1024

	clockRateLimit = 0.02 // of wall time against monotonic time
	yearFirst      = 2025
	yearLast       = 2100
)

// PreFacts is what the checks before an install judge; they need no agent.
type PreFacts struct {
	DataDir    string
	DataDirErr string // why nothing could be written there; "" when it could
	// SocketExcess is by how many bytes the path of a socket in it is longer than the kernel takes.
	SocketExcess int
	InUse        string // who runs in it: "pid 17"; "" when nobody does
	Belongs      string // the cluster that it belongs to; "" for none
	FileSystem   string // tmpfs, nfs, or "" for one that keeps data and locks
	Fsync        time.Duration
	DiskFree     uint64
	DiskKnown    bool

	Ports   []PrePort // none while an agent runs in the directory: they are its own
	Consul  []string  // what of a Consul was seen: "process consul", "port 8500"
	Profile string

	Year          int
	Wall, Elapsed time.Duration // the same stretch by wall clock and by boottime

	MaxFiles   uint64
	PeerCred   bool // the kernel names the process behind a Unix socket
	OS         string
	Name       string
	NameErr    string   // why the name does not do
	Elsewhere  []string // addresses of the name that are not this host's
	Advertise  string
	AdvertLoop bool // the advertised address is loopback
	Join       []PreJoin
}

// PrePort is one address that the agent will serve on.
type PrePort struct {
	Key, Addr, Network string
	Err                string // why it cannot be bound; "" when it can
	Taken              bool   // by another program
	Parley             bool   // which is an agent of ours
}

// PreJoin is one address to join by.
type PreJoin struct {
	Addr string
	TCP  string // why it cannot be dialled; "" when it can
	UDP  PreUDP
}

// PreUDP is what can be said of UDP to an address.
type PreUDP string

// A host that drops packets and one that lost them look the same.
const (
	UDPAnswers PreUDP = "answers"
	UDPRefused PreUDP = "refused"
	UDPSilent  PreUDP = "silent"
)

// Precheck judges a host before an agent is installed on it.
func Precheck(f PreFacts) CheckReport {
	checks := []CheckResult{
		f.platform(), f.dataDir(), f.fileSystem(), checkDisk(f.DiskFree, f.DiskKnown), f.fsync(), f.clock(), f.files(),
		f.name(), f.advertise(),
	}
	for _, p := range f.Ports {
		checks = append(checks, f.port(p))
	}
	checks = append(checks, f.consul())
	for _, j := range f.Join {
		checks = append(checks, j.tcp(), j.udp())
	}
	return reportOf(checks)
}

func (f PreFacts) platform() CheckResult {
	r := pass("platform", "%s, and the kernel names who calls on a socket", f.OS)
	switch {
	case f.OS != "linux":
		r.Message = f.OS + " is not tested"
		return r.warn("agents are tested on Linux only")
	case !f.PeerCred:
		r.Message = "the kernel does not say who calls on a Unix socket"
		return r.fail("the admin socket needs SO_PEERCRED; a sandbox may hide it")
	}
	return r
}

func (f PreFacts) dataDir() CheckResult {
	r := pass("data-dir", "%s can be written", f.DataDir)
	switch {
	case f.DataDirErr != "":
		r.Message = f.DataDirErr
		return r.fail("run this as the user that the agent will run as, or choose another --data-dir")
	case f.SocketExcess > 0:
		r.Message = fmt.Sprintf("the path of %s is %d bytes too long for a socket in it", f.DataDir, f.SocketExcess)
		return r.fail("choose a --data-dir with a shorter path")
	case f.InUse != "":
		r.Message = fmt.Sprintf("an agent (%s) runs in %s", f.InUse, f.DataDir)
		return r.fail("ask the agent itself: parley check without --pre")
	case f.Belongs != "":
		r.Message += ", and belongs to cluster " + f.Belongs
	}
	return r
}

func (f PreFacts) fileSystem() CheckResult {
	switch f.FileSystem {
	case "tmpfs":
		return pass("file-system", "tmpfs: everything is lost when the host restarts").warn("choose a --data-dir on a disk")
	case "nfs":
		return pass("file-system", "a network file system").fail("locks and syncs there promise too little: choose a --data-dir on a disk of this host")
	}
	return pass("file-system", "keeps what is written")
}

func (f PreFacts) fsync() CheckResult {
	r := pass("fsync", "a write is on the disk after %s", f.Fsync.Round(10*time.Microsecond))
	const hint = "every acknowledged write waits for this: use an SSD, and leave it to this agent and few others"
	switch {
	case f.DataDirErr != "":
		r.Message = "not measured"
		return r.warn("see data-dir")
	case f.Fsync > fsyncFail:
		return r.fail(hint)
	case f.Fsync > fsyncWarn:
		return r.warn(hint)
	}
	return r
}

func (f PreFacts) clock() CheckResult {
	r := pass("clock", "year %d, runs evenly", f.Year)
	if f.Year < yearFirst || f.Year > yearLast {
		r.Message = fmt.Sprintf("the clock says that it is the year %d", f.Year)
		return r.fail("set the clock, and install time synchronization (chrony, systemd-timesyncd)")
	}
	off := f.Wall - f.Elapsed
	if off < 0 {
		off = -off
	}
	if off > 5*time.Millisecond && float64(off) > clockRateLimit*float64(f.Elapsed) {
		r.Message = fmt.Sprintf("the wall clock went %s while %s went by", f.Wall.Round(time.Millisecond), f.Elapsed.Round(time.Millisecond))
		return r.warn("it was set just now, or is being pulled hard: wait until time synchronization has settled")
	}
	return r
}

func (f PreFacts) files() CheckResult {
	r := pass("open-files", "%d files may be open", f.MaxFiles)
	const hint = "raise the limit: LimitNOFILE=65536 in the unit, ulimit -n in a shell"
	switch {
	case f.MaxFiles < filesFail:
		return r.fail(hint)
	case f.MaxFiles < filesWarn:
		return r.warn(hint)
	}
	return r
}

func (f PreFacts) name() CheckResult {
	r := pass("name", "%s", f.Name)
	switch {
	case f.NameErr != "":
		r.Message = f.NameErr
		return r.fail("give the agent a name: --name, or name in the configuration; it cannot be changed later")
	case len(f.Elsewhere) > 0:
		r.Message = fmt.Sprintf("%s is %s by DNS, which is not this host", f.Name, strings.Join(f.Elsewhere, ", "))
		return r.warn("names are unique in a cluster: see that no other host has this one")
	}
	return r
}

func (f PreFacts) advertise() CheckResult {
	r := pass("advertise", "other agents are told %s", f.Advertise)
	if f.AdvertLoop {
		return r.warn("only agents on this host reach a loopback address: set --advertise or --bind to an address of the network")
	}
	return r
}

func (f PreFacts) port(p PrePort) CheckResult {
	r := pass(p.Key+"-"+p.Network, "%s %s is free", p.Network, p.Addr)
	switch {
	case p.Taken && p.Parley:
		r.Message = fmt.Sprintf("%s %s is taken by another Parley agent", p.Network, p.Addr)
		return r.fail("several agents on one host need an address each: --bind, --http and --dns with 127.0.0.2, 127.0.0.3 ...")
	case p.Taken && len(f.Consul) > 0 && (p.Key == "http.bind" || p.Key == "dns.bind"):
		r.Message = fmt.Sprintf("%s %s is taken, it seems by Consul", p.Network, p.Addr)
		return r.fail("run the agent with --profile beside-consul, which takes 18500 and 18600")
	case p.Taken:
		r.Message = fmt.Sprintf("%s %s is taken by another program", p.Network, p.Addr)
		return r.fail("stop that program (ss -lnp shows it), or give the agent another address")
	case p.Err != "":
		r.Message = p.Err
		return r.fail("choose an address of this host")
	}
	return r
}

func (f PreFacts) consul() CheckResult {
	r := pass("consul", "none on this host")
	if len(f.Consul) == 0 {
		return r
	}
	r.Message = "there is a Consul on this host: " + strings.Join(f.Consul, ", ")
	if f.Profile == "beside-consul" {
		return r
	}
	return r.warn("run the agent with --profile beside-consul: http on 127.0.0.1:18500, dns on 127.0.0.1:18600")
}

func (j PreJoin) tcp() CheckResult {
	if j.TCP != "" {
		return pass("join-tcp", "%s cannot be reached by TCP: %s", j.Addr, j.TCP).
			fail("see that an agent serves there, and that firewalls let TCP to its mesh port through").with(runbookFirewall)
	}
	return pass("join-tcp", "%s is reached by TCP", j.Addr)
}

// udp does not fail: without UDP gossip goes over TCP.
func (j PreJoin) udp() CheckResult {
	switch j.UDP {
	case UDPAnswers:
		return pass("join-udp", "%s answers by UDP", j.Addr)
	case UDPRefused:
		return pass("join-udp", "nothing serves UDP at %s", j.Addr).
			warn("an agent serves TCP and UDP on the same port number: see what runs there").with(runbookFirewall)
	}
	return pass("join-udp", "%s does not answer by UDP", j.Addr).
		warn("a firewall may drop UDP to the mesh port; gossip then goes over TCP, which costs more").with(runbookFirewall)
}
