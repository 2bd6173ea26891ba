package lab

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Agent is one agent of a lab.
type Agent struct {
	Name    string
	DataDir string
	Admin   string // path of the admin socket
	HTTP    string // addr:port
	DNS     string // addr:port
	Mesh    string // addr:port
	Argv    []string
	LogFile string

	dir  string // holds data directory and log
	zone string

	// mu guards the process. Nothing is started, signalled or waited for under it.
	mu   sync.Mutex
	proc *process // the running or last process; nil before the first
}

func newAgent(l *Lab, i int, p Place) *Agent {
	name := fmt.Sprintf("a%d", i+1)
	dir := filepath.Join(l.Dir, name)
	a := &Agent{
		Name: name, DataDir: filepath.Join(dir, "data"), LogFile: filepath.Join(dir, "agent.log"),
		Admin: filepath.Join(dir, "data", "admin.sock"),
		HTTP:  p.HTTP, DNS: p.DNS, Mesh: p.Mesh, dir: dir, zone: zone(i),
	}
	a.Argv = slices.Concat(p.Wrap, []string{l.opts.Binary}, l.agentArgs(a, i))
	return a
}

// agentArgs is the command line of agent i. The token stands in a file, never among the arguments.
func (l *Lab) agentArgs(a *Agent, i int) []string {
	args := []string{
		"agent", "--data-dir", a.DataDir, "--name", a.Name, "--zone", a.zone,
		"--bind", a.Mesh, "--http", a.HTTP, "--dns", a.DNS, "--http-anonymous", "operator",
		"--set", "gossip.profile=fast", "--set", "core.replace_after=" + l.opts.ReplaceAfter.String(),
	}
	settings := []map[string]string{l.opts.Settings}
	if l.opts.Own != nil {
		settings = append(settings, l.opts.Own(i))
	}
	for _, keys := range settings {
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			args = append(args, "--set", key+"="+keys[key])
		}
	}
	if i > 0 {
		args = append(args, "--join", l.Agents[0].Mesh, "--token-file", l.tokenFile())
	}
	return args
}

func (l *Lab) tokenFile() string { return filepath.Join(l.Dir, "token") }

// Addr is the agent's admin socket as --addr and PARLEY_ADDR take it.
func (a *Agent) Addr() string { return "unix://" + a.Admin }

// Pid is the process id of the running or last process, 0 before the first.
func (a *Agent) Pid() int {
	if p := a.process(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Running reports whether the process has not ended. A stopped one (SIGSTOP) runs.
func (a *Agent) Running() bool {
	p := a.process()
	return p != nil && !p.ended()
}

// Cmd is the running or last process, for its resource usage; nil before the first. Signals go through
// the Lab, and nobody else may wait for it.
func (a *Agent) Cmd() *exec.Cmd {
	if p := a.process(); p != nil {
		return p.cmd
	}
	return nil
}

func (a *Agent) process() *process {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.proc
}

func (a *Agent) setProcess(p *process) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.proc = p
}

// LogTail returns the last lines of the agent's log.
func (a *Agent) LogTail(lines int) string {
	const tailBytes = 16 << 10
	f, err := os.Open(a.LogFile)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // only read
	if info, err := f.Stat(); err == nil && info.Size() > tailBytes {
		if _, err := f.Seek(-tailBytes, 2); err != nil {
			return ""
		}
	}
	text := make([]byte, tailBytes)
	n, _ := f.Read(text)
	all := strings.Split(strings.TrimRight(string(text[:n]), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
