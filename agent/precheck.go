package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/ops"
)

const (
	fsyncProbes   = 9
	fsyncBytes    = 4096
	lookupTimeout = 2 * time.Second
	maxProcesses  = 65536 // looked at for one named consul
)

// Precheck examines this host before an agent runs on it. It needs no agent, and changes nothing: what
// it writes to measure the disk it removes again.
func Precheck(ctx context.Context, cfg config.Config) ops.CheckReport {
	wall, began := clock.System().UnixNano(), clock.Boottime()
	f := ops.PreFacts{
		DataDir: cfg.DataDir, OS: runtime.GOOS, PeerCred: hasPeerCred(), MaxFiles: maxFiles(),
		Profile: cfg.Profile, Advertise: cfg.Mesh.Advertise, Consul: findConsul(ctx),
	}
	precheckDisk(&f)
	precheckName(ctx, &f, cfg)
	if f.InUse == "" {
		f.Ports = precheckPorts(ctx, cfg)
	}
	if addr, err := netip.ParseAddrPort(cfg.Mesh.Advertise); err == nil {
		f.AdvertLoop = addr.Addr().IsLoopback()
	}
	f.Join = precheckJoins(ctx, cfg.Join)
	f.Elapsed = clock.Boottime() - began
	now := clock.System()
	f.Year, f.Wall = now.Year(), time.Duration(now.UnixNano()-wall)
	return ops.Precheck(f)
}

// precheckDisk looks at the data directory, or at where it would be made.
func precheckDisk(f *ops.PreFacts) {
	at := nearest(f.DataDir)
	f.FileSystem = fileSystem(at)
	f.DiskFree, f.DiskKnown = diskFree(at)
	f.InUse = lockedBy(f.DataDir)
	if ids, err := (&dataDir{path: f.DataDir}).readCluster(); err == nil && ids != nil {
		f.Belongs, f.Name = ids.ClusterID, ids.Node
	}
	f.SocketExcess = socketExcess(f.DataDir)
	if at == f.DataDir {
		if err := checkOwner(at); err != nil {
			f.DataDirErr = err.Error()
			return
		}
	}
	took, err := measureFsync(at)
	f.Fsync = took
	switch {
	case errors.Is(err, os.ErrPermission) && at != f.DataDir:
		f.DataDirErr = fmt.Sprintf("%s does not exist and cannot be made in %s by uid %d", f.DataDir, at, os.Geteuid())
	case err != nil:
		f.DataDirErr = err.Error()
	}
}

// measureFsync returns the median time from a write to its being on the disk.
func measureFsync(dir string) (_ time.Duration, err error) {
	file, err := os.CreateTemp(dir, ".parley-check-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	var took []time.Duration
	block := make([]byte, fsyncBytes)
	for i := range fsyncProbes {
		began := clock.Boottime()
		if _, err := file.WriteAt(block, int64(i)*fsyncBytes); err != nil {
			return 0, err
		}
		if err := file.Sync(); err != nil {
			return 0, err
		}
		took = append(took, clock.Boottime()-began)
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// lockedBy says which process holds the data directory, "" if none does. Unlike LockDir it makes no
// file.
func lockedBy(dir string) string {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // only read
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return ""
	}
	text := make([]byte, 20)
	n, _ := f.ReadAt(text, 0)
	return "pid " + strings.TrimSpace(string(text[:n]))
}

func precheckName(ctx context.Context, f *ops.PreFacts, cfg config.Config) {
	if cfg.Name != "" {
		f.Name = cfg.Name
	}
	if f.Name == "" {
		name, err := config.HostName()
		if err != nil {
			f.NameErr = err.Error()
			return
		}
		f.Name = name
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", f.Name)
	if err != nil {
		return // most names are in no DNS, and need not be
	}
	f.Elsewhere = elsewhere(found, hostAddrs())
}

// elsewhere lists what of found is neither loopback nor an address of this host; a name with one that
// is belongs to this host.
func elsewhere(found []netip.Addr, own []netip.Addr) []string {
	var list []string
	for _, addr := range found {
		addr = addr.Unmap()
		if addr.IsLoopback() || slices.Contains(own, addr) {
			return nil
		}
		list = append(list, addr.String())
	}
	return list
}

func hostAddrs() []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []netip.Addr
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, prefix.Addr().Unmap())
		}
	}
	return list
}

// precheckPorts tries each address that the agent would serve on, and lets it go again.
func precheckPorts(ctx context.Context, cfg config.Config) []ops.PrePort {
	ports := []ops.PrePort{
		tryPort("mesh.bind", "tcp", cfg.Mesh.Bind), tryPort("mesh.bind", "udp", cfg.Mesh.Bind),
	}
	if !strings.HasPrefix(cfg.HTTP.Bind, "unix://") {
		http := tryPort("http.bind", "tcp", cfg.HTTP.Bind)
		http.Parley = http.Taken && isParley(ctx, cfg.HTTP.Bind)
		ports = append(ports, http)
	}
	if cfg.HTTPS.Bind != "" {
		ports = append(ports, tryPort("https.bind", "tcp", cfg.HTTPS.Bind))
	}
	return append(ports, tryPort("dns.bind", "tcp", cfg.DNS.Bind), tryPort("dns.bind", "udp", cfg.DNS.Bind))
}

func tryPort(key, network, addr string) ops.PrePort {
	p := ops.PrePort{Key: key, Network: network, Addr: addr}
	var err error
	if network == "udp" {
		var c net.PacketConn
		if c, err = net.ListenPacket(network, addr); err == nil {
			_ = c.Close() // nothing was received
		}
	} else {
		var l net.Listener
		if l, err = net.Listen(network, addr); err == nil {
			_ = l.Close() // nothing was accepted
		}
	}
	if err != nil {
		p.Err, p.Taken = err.Error(), errors.Is(err, syscall.EADDRINUSE)
	}
	return p
}

// findConsul lists the signs of a Consul on this host: its process, and its ports. A Parley agent on
// such a port says that it is one.
func findConsul(ctx context.Context) []string {
	var signs []string
	if hasProcess("consul") {
		signs = append(signs, "process consul")
	}
	for _, port := range []string{"8500", "8600", "8301"} {
		if tryPort("", "tcp", "127.0.0.1:"+port).Taken && !isParley(ctx, "127.0.0.1:"+port) {
			signs = append(signs, "port "+port)
		}
	}
	return signs
}

// isParley reports whether an agent of ours serves http at addr.
func isParley(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/livez", http.NoBody)
	if err != nil {
		return false
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close() // the header is the answer
	return response.Header.Get("Parley-Request-Id") != ""
}

// hasProcess looks through /proc; where there is none it finds nothing.
func hasProcess(name string) bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	for _, entry := range entries[:min(len(entries), maxProcesses)] {
		comm, err := os.ReadFile("/proc/" + entry.Name() + "/comm")
		if err == nil && strings.TrimSpace(string(comm)) == name {
			return true
		}
	}
	return false
}

func maxFiles() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return uint64(limit.Cur) //nolint:unconvert // signed on some systems
}
