package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// flagLife is how long certificates last in the drills below. CI takes a minute in turn, which makes them last for minutes.
var flagLife = flag.Duration("life", 10*time.Second, "how long certificates last in the drills of lifetimes")

// spiffeProgram is one on the host of an agent, as far as it has an identity: SPIFFE's own client follows it.
type spiffeProgram struct {
	t       *testing.T
	agent   *lab.Agent
	source  *workloadapi.X509Source
	serials map[string]bool
}

// startProgramOn wants the entry "web" to hold for this process.
func startProgramOn(t *testing.T, a *lab.Agent) *spiffeProgram {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+filepath.Join(a.DataDir, "workload.sock"))))
	if err != nil {
		t.Fatalf("%s: %v", a.Name, err)
	}
	t.Cleanup(func() { _ = source.Close() })
	return &spiffeProgram{t: t, agent: a, source: source, serials: make(map[string]bool)}
}

// valid wants the certificate in use to be valid, and notes which one it is.
func (p *spiffeProgram) valid() error {
	svid, err := p.source.GetX509SVID()
	if err != nil {
		return fmt.Errorf("the program on %s: %w", p.agent.Name, err)
	}
	leaf := svid.Certificates[0]
	p.serials[leaf.SerialNumber.String()] = true
	if now := time.Now(); now.After(leaf.NotAfter) {
		return fmt.Errorf("the certificate of the program on %s ended %s ago", p.agent.Name, now.Sub(leaf.NotAfter))
	}
	return nil
}

// echo serves lines by mutual TLS, and returns where.
func (p *spiffeProgram) echo() string {
	p.t.Helper()
	members := tlsconfig.AuthorizeMemberOf(spiffeid.RequireTrustDomainFromString("lab.parley.test"))
	l, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(p.source, p.source, members))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer c.Close() //nolint:errcheck // a test's own
				for lines := bufio.NewScanner(c); lines.Scan(); {
					if _, err := fmt.Fprintln(c, lines.Text()); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func (p *spiffeProgram) dial(addr string) (net.Conn, error) {
	members := tlsconfig.AuthorizeMemberOf(spiffeid.RequireTrustDomainFromString("lab.parley.test"))
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: tlsconfig.MTLSClientConfig(p.source, p.source, members)}
	return dialer.Dial("tcp", addr)
}

// exchange sends a line and wants it back.
func exchangeLine(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, "still here"); err != nil {
		return err
	}
	text, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && text != "still here\n" {
		err = fmt.Errorf("got %q", text)
	}
	return err
}

// lifeLab is a lab whose certificates last for -life, with programs on two agents outside the core, one of which calls the other.
type lifeLab struct {
	*lab.Lab
	clients        map[string]*client.Client
	core, outside  []*lab.Agent
	caller, server *spiffeProgram
	addr           string
	conn           net.Conn
}

func newLifeLab(t *testing.T) *lifeLab {
	t.Helper()
	// Nobody takes the place of a voter that is away.
	l := &lifeLab{Lab: startLab(t, lab.Options{Agents: 5, ReplaceAfter: time.Hour, Settings: map[string]string{"identity.leaf_ttl": flagLife.String()}})}
	l.clients = clientsOf(t, l.Lab)
	whole(t, l.clients)
	settled(t, l.Lab)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	members, err := l.clients["a1"].Members(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range members {
		if m.Core == "none" {
			l.outside = append(l.outside, l.Agents[i])
		} else {
			l.core = append(l.core, l.Agents[i])
		}
	}
	if len(l.core) != 3 || len(l.outside) != 2 {
		t.Fatalf("%d agents in the core, %d outside", len(l.core), len(l.outside))
	}
	spec := client.EntrySpec{Name: "web", Selectors: []string{"uid:" + strconv.Itoa(os.Geteuid())}, TTLSeconds: uint64(flagLife.Seconds())}
	if _, err := l.clients["a1"].SetEntry(ctx, spec); err != nil {
		t.Fatal(err)
	}
	if _, err := l.clients["a1"].Put(ctx, "before", []byte("x"), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	l.caller, l.server = startProgramOn(t, l.outside[0]), startProgramOn(t, l.outside[1])
	l.addr = l.server.echo()
	if l.conn, err = l.caller.dial(l.addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.conn.Close() })
	return l
}

// holds wants everything to go on among these agents: their certificates and those of the programs are valid, they hold each other
// alive, an agent outside the core reads from a core member over the mesh, and the programs talk over the connection of the beginning
// and over a new one.
func (l *lifeLab) holds(ctx context.Context, agents []*lab.Agent) error {
	some := make(map[string]*client.Client)
	for _, a := range agents {
		some[a.Name] = l.clients[a.Name]
		s, err := l.clients[a.Name].Status(ctx)
		if err != nil {
			return err
		}
		if now := time.Now(); now.After(s.SVID.NotAfter) {
			return fmt.Errorf("the certificate of %s ended %s ago", a.Name, now.Sub(s.SVID.NotAfter))
		}
	}
	if err := allAlive(ctx, some); err != nil {
		return err
	}
	for _, a := range l.outside {
		if p, err := l.clients[a.Name].Get(ctx, "before", client.ReadOptions{Stale: true}); err != nil || string(p.Value) != "x" {
			return fmt.Errorf("a stale read by %s: %q, %w", a.Name, p.Value, err)
		}
	}
	return errors.Join(l.caller.valid(), l.server.valid(), exchangeLine(l.conn), l.callAnew())
}

func (l *lifeLab) callAnew() error {
	c, err := l.caller.dial(l.addr)
	if err != nil {
		return fmt.Errorf("a new connection: %w", err)
	}
	defer c.Close() //nolint:errcheck // a test's own
	return exchangeLine(c)
}

// TestCertificatesOutliveTheQuorum: two of three core members are killed for three lives of a certificate. Nothing ends and no
// connection drops meanwhile: certificates of agents and of programs are renewed by the member that is left. A new registration
// and a new token are refused at once, with the reason. With the two back all is whole, and the registration is taken. The control
// is a certificate that nobody renews: it has ended by then.
func TestCertificatesOutliveTheQuorum(t *testing.T) {
	t.Parallel() // it mostly waits
	l := newLifeLab(t)
	left := append(slices.Clone(l.outside), l.core[2])
	svid, err := l.caller.source.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	first := svid.Certificates[0]
	for _, a := range l.core[:2] {
		if err := l.Kill(a.Name, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	rounds, refusals := 0, make(chan error, 1)
	go func() { // beside what has to go on
		time.Sleep(*flagLife)
		refusals <- l.refusesRegistrations(left)
	}()
	for end := time.Now().Add(3 * *flagLife); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := l.holds(ctx, left)
		cancel()
		if err != nil {
			t.Fatalf("%s before the end: %v", time.Until(end).Round(time.Millisecond), err)
		}
		rounds++
	}
	if err := errors.Join(<-refusals, l.refusesRegistrations(left)); err != nil {
		t.Error(err)
	}
	for _, a := range left {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if s, err := l.clients[a.Name].CA(ctx); err != nil || s.Measured || len(s.Roots) != 1 {
			t.Errorf("%s says of the roots %+v, %v: want what it knows, and that nothing is measured", a.Name, s, err)
		}
		cancel()
	}
	for _, p := range []*spiffeProgram{l.caller, l.server} {
		if len(p.serials) < 4 {
			t.Errorf("the program on %s had %d certificates in three lives", p.agent.Name, len(p.serials))
		}
	}
	if now := time.Now(); !now.After(first.NotAfter) {
		t.Errorf("control: the certificate of the beginning is valid until %s, now it is %s", first.NotAfter, now)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(l.Restart(ctx, l.core[0].Name), l.Restart(ctx, l.core[1].Name)); err != nil {
		t.Fatal(err)
	}
	whole(t, l.clients)
	eventually(t, 20*time.Second, "a registration", func(ctx context.Context) error {
		_, err := l.clients[left[0].Name].SetEntry(ctx, client.EntrySpec{Name: "late", Selectors: []string{"uid:4711"}})
		return err
	})
	t.Logf("%d rounds, %d and %d certificates of programs", rounds, len(l.caller.serials), len(l.server.serials))
}

// refusedWithin is well below the five seconds that a request waits while a leader may come: all know that none can.
const refusedWithin = 3 * time.Second

// refusesRegistrations asks all of them at once for a registration and a token, and wants a clear no from each, without a wait.
func (l *lifeLab) refusesRegistrations(agents []*lab.Agent) error {
	answers := make(chan error, 2*len(agents))
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Second)
	defer cancel()
	for _, a := range agents {
		c := l.clients[a.Name]
		for what, ask := range map[string]func() error{
			"a registration": func() error {
				_, err := c.SetEntry(ctx, client.EntrySpec{Name: "new", Selectors: []string{"uid:4711"}})
				return err
			},
			"a token": func() error {
				_, err := c.CreateToken(ctx, client.TokenSpec{Uses: 1, Role: "local"})
				return err
			},
		} {
			go func() { // ends with ctx at the latest
				began := time.Now()
				err := ask()
				took := time.Since(began)
				var refused *client.Error
				if errors.As(err, &refused) && refused.Code == "no_leader" && strings.Contains(refused.Hint, "parley core") {
					if err = nil; took > refusedWithin {
						err = fmt.Errorf("%s by way of %s was refused after %s", what, a.Name, took)
					}
				} else {
					err = fmt.Errorf("%s by way of %s, want no_leader: %w", what, a.Name, errors.Join(err))
				}
				answers <- err
			}()
		}
	}
	var all []error
	for range cap(answers) {
		all = append(all, <-answers)
	}
	return errors.Join(all...)
}

// TestAllFrozenPastTheirLives: every agent is stopped for two lives of its certificate and more, then goes on. Within a minute, without
// anybody's help, the cluster is whole: a leader, valid certificates, writes through all, certificates of programs, and new connections
// of theirs. The control: everything had ended while they stood still.
func TestAllFrozenPastTheirLives(t *testing.T) {
	t.Parallel() // it mostly waits
	l := newLifeLab(t)
	before := expiries(t, l.clients)
	for _, a := range l.Agents {
		if err := l.Kill(a.Name, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	var last time.Time
	for _, at := range before {
		if at.After(last) && time.Until(at) < 2**flagLife { // the founder's first certificate has the default life
			last = at
		}
	}
	time.Sleep(2**flagLife + 2*time.Second)
	if now := time.Now(); !now.After(last) {
		t.Fatalf("control: a certificate of an agent is valid until %s, now it is %s", last, now)
	}
	if err := l.caller.valid(); err == nil {
		t.Error("control: the certificate of a program is valid all the same")
	}
	began := time.Now()
	for _, a := range l.Agents {
		if err := l.Kill(a.Name, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, time.Minute, "the whole cluster again", func(ctx context.Context) error {
		for _, a := range l.Agents {
			if err := fresh(ctx, l.clients[a.Name]); err != nil {
				return fmt.Errorf("%s: %w", a.Name, err)
			}
		}
		if _, err := l.clients["a1"].Put(ctx, "after", []byte("y"), client.PutOptions{}); err != nil {
			return err
		}
		return l.holds(ctx, l.Agents)
	})
	// Apart from the writes above: with one in each round, agents that are asked one after the other are never seen at the same revision.
	eventually(t, time.Until(began.Add(time.Minute)), "equal digests", func(ctx context.Context) error { return sameDigest(ctx, l.clients) })
	t.Logf("whole again %s after it went on", time.Since(began).Round(time.Millisecond))
	throughAll(t, l.clients)
	whole(t, l.clients)
}
