// Package agent puts the parts together: New reads what the data directory says, Run starts the
// parts in order and stops them in reverse, Init founds a cluster. The package decides nothing that a
// part could decide; it carries values from one to the other.
//
// The common case is
//
//	a, err := agent.New(cfg, agent.Options{Log: log, Version: version})
//	err = a.Run(ctx) // blocks until ctx ends
//
// An Agent is used by one goroutine: New, then Run, once. One agent holds a data directory at a time,
// by a lock that ends with the process. ARCHITECTURE.md lists the goroutines and the files.
package agent

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"runtime/trace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/consul"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/storage"
	"github.com/parley-mesh/parley/transport"
)

// Options are what the process around the agent provides. Zero values are usable.
type Options struct {
	Log     *zap.Logger
	Version string
	// Ready is called once, when the agent has its identity and serves its listeners.
	Ready func()
	// Physical is the wall clock behind the hybrid logical clock; nil means the system's. Tests set
	// it back.
	Physical func() time.Time

	fs    storage.FS       // tests: of the data directory
	fatal func(error)      // tests: in place of ending the process
	wall  func() time.Time // tests: the clock by which certificates are made and judged

	firstIdentity time.Duration // tests: in place of firstIdentityWait
}

// Agent is one agent of a cluster.
type Agent struct {
	cfg  config.Config
	opts Options
	log  *zap.Logger

	dir     *dataDir
	ids     clusterIDs
	host    *security.Host
	keys    *security.KeyStore
	source  *security.Source
	denials *denials
	evicted evictedIssuers
	hub     *watch.Hub
	views   *viewSwitch
	epochs  *epochs
	book    *book
	pool    *transport.Pool
	live    *transport.Live
	core    *coreRunner
	issuer  *issuer
	rotor   *rotor

	sealKeeper  *sealKeeper
	ratchet     *security.Ratchet // of this host's generations
	generations *generations      // of all hosts, on a core member
	jwtSigner   *jwtSigner
	workloads   *workloadIssuer
	identities  *identities // a workload.Source

	scrubber   *scrubber
	space      *spaceKeeper
	yielder    *yielder
	leaver     *leaver
	control    *controller
	backups    *backups
	recordings *recordings
	flight     atomic.Pointer[trace.FlightRecorder]
	canaries   *canaries
	gone       *keysGone
	sessions   *sessionKeeper

	gossip     *membership.Membership
	service    *api.Service
	watcher    *watcher
	leaderHint leaderHint

	cutFrom atomic.Pointer[func(node string) bool] // tests: whose connections this agent refuses, as of one that left

	operatorConns operatorConns // on the mesh port
	operatorHTTPS operatorConns
	held          held
	workloadAPI   *workloadAPI

	remoteCore  remoteCore
	leaderWatch leaderWatch
	ready       atomic.Bool

	renewer     *security.Renewer
	outside     outside
	ledger      *ledger // nil when it could not be written
	safe        safeMode
	safeOver    bool // a run in safe mode came before, in this process
	joined      bool // the cluster, in this run
	incarnation uint64
	address     netip.AddrPort // of the mesh port, as others reach it
	timeline    *timeline
	starts      startTracker
	links       linkTable
	digests     *digestRing
	lastDigests atomic.Pointer[lastComparison]
	comparison  *sharedAnswer[api.DigestComparison]
	matrix      *sharedAnswer[api.LinkMatrix]
}

// New checks the configuration against the data directory's. It starts nothing and changes nothing.
func New(cfg config.Config, opts Options) (*Agent, error) {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	if opts.Physical == nil {
		opts.Physical = clock.System
	}
	if opts.Ready == nil {
		opts.Ready = func() {}
	}
	opts.Ready = sync.OnceFunc(opts.Ready)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Agent{cfg: cfg, opts: opts, log: opts.Log, remoteCore: remoteCore{now: clock.System}}, nil
}

// Run takes the data directory, joins the cluster if it has to, and serves until ctx ends. The error
// says what to do; Hint may say more. A stop by ctx returns nil.
func (a *Agent) Run(ctx context.Context) error { return withOwnerHint(a.run(ctx), a.cfg.DataDir) }

func (a *Agent) run(ctx context.Context) error {
	var err error
	if a.dir, err = openDataDir(a.cfg.DataDir); err != nil {
		return err
	}
	a.dir.fatal = a.storageFailed
	if a.opts.fs != nil {
		a.dir.fs = a.opts.fs
	}
	held, err := a.dir.lock()
	if err != nil {
		return err
	}
	defer held.Close() //nolint:errcheck // the lock ends with the process at the latest
	debug.SetMaxStack(maxStackBytes)
	if ids, err := a.dir.readCluster(); err == nil && ids != nil {
		a.countStart()
		a.backOff(ctx)
	}
	for {
		if err = a.runOnce(ctx); !errors.Is(err, errSafeModeOver) {
			break
		}
	}
	a.countStop(err)
	return err
}

// runOnce serves until ctx ends, or until a safe mode is over in which parts were left out.
func (a *Agent) runOnce(ctx context.Context) error {
	socks, err := openSockets(a.cfg, a.dir)
	if err != nil {
		return errors.Join(err, a.uncountStart())
	}
	defer socks.close()
	defer a.outside.close()
	if err := a.identify(ctx, socks); err != nil {
		return errors.Join(stoppedBy(ctx, err), a.uncountStart())
	}
	if a.ledger == nil {
		a.countStart()
	}
	if err := a.assemble(socks); err != nil {
		return errors.Join(err, a.uncountStart())
	}
	if a.safe.level() == safeAdmin {
		socks.closeOutside() // nobody would answer there
		a.workloadAPI.close()
	}
	defer a.workloadAPI.close()
	defer a.pool.Close()
	poison(a.ids.Node)
	a.reportStart()
	ctx, a.leaver.stop = context.WithCancel(ctx)
	defer a.leaver.stop()
	return runTiers(ctx, a.log, a.safeTiers(a.tiers(socks)), a.beforeStop)
}

// identify finds out who this agent is, joining the cluster first if the directory is new.
func (a *Agent) identify(ctx context.Context, socks *sockets) error {
	ids, err := a.dir.readCluster()
	if err != nil {
		return err
	}
	if ids == nil {
		if ids, err = a.joinCluster(ctx, socks); err != nil {
			return err
		}
		a.joined = true
	}
	if a.cfg.Name != "" && a.cfg.Name != ids.Node {
		return withHint(fmt.Errorf("%s belongs to node %q, not %q", a.dir.path, ids.Node, a.cfg.Name),
			"start it with --name "+ids.Node+", or give the other node its own --data-dir")
	}
	if err := a.dir.checkLeft(*ids); err != nil {
		return err
	}
	if err := a.checkSource(*ids); err != nil {
		return err
	}
	if err := a.checkToken(*ids); err != nil {
		return err
	}
	if err := a.takeZone(ids); err != nil {
		return err
	}
	a.ids = *ids
	if err := security.CheckKeyFiles(a.dir.path); err != nil {
		return err
	}
	a.host, err = security.LoadHost(a.dir.path)
	if err != nil {
		return identityError(fmt.Errorf("load the host's keys: %w", err), ids.Node)
	}
	if err := a.askOutside(ctx, ids.TrustDomain, ids.Node); err != nil {
		return err
	}
	a.keys, err = security.NewKeyStore(a.dir.path, a.host, security.KeyStoreOptions{Kind: a.cfg.Identity.KeyStore, Device: a.cfg.Identity.TPM})
	if err != nil {
		return identityError(fmt.Errorf("load the host's keys: %w", err), ids.Node)
	}
	return nil
}

// identityError adds what to do about an identity that cannot be used, unless err knows better.
func identityError(err error, node string) error {
	if Hint(err) != "" {
		return err
	}
	return withHint(err, "put the file that is named back from a backup of this host, and that file alone (a leaf.key with its leaf.pem): with an older "+
		"generation.secret the host is taken for a copy, until 'parley agent trust "+node+"' on another agent; without a backup give the host an empty "+
		"data directory and join again with a token of 'parley token create --replace "+node+"' made on another agent")
}

// assemble makes the parts and hands them to each other. Nothing runs yet.
func (a *Agent) assemble(socks *sockets) error {
	td, err := spiffeid.TrustDomainFromString(a.ids.TrustDomain)
	if err != nil {
		return fmt.Errorf("%s: %w", clusterFile, err)
	}
	hlc, err := a.newClock()
	if err != nil {
		return err
	}
	a.hub = watch.NewHub(loadCopy(a.dir, a.log))
	a.views = &viewSwitch{hub: a.hub}
	a.epochs, a.denials = newEpochs(a.dir, a.ids.raftEpoch(), a.hub.View, a.log.Named("epoch")), a.newDenials()
	a.source, err = security.NewSource(security.SourceOptions{
		Dir: a.dir.path, TrustDomain: td, Node: a.ids.Node, Host: a.host,
		Now: a.now, HostKeyOf: a.hostKeyOf, Denied: a.hasLeft, OperatorKey: a.operatorKey,
		IssuerDenied: a.issuerDenied, CertDenied: a.denials.cert, External: a.outside.first, Log: a.log.Named("security"),
	})
	if err != nil {
		return identityError(fmt.Errorf("load this agent's identity: %w", err), a.ids.Node)
	}
	known, err := a.dir.readKnown()
	if err != nil {
		return err
	}
	a.live = transport.NewLive()
	a.book = &book{self: a.ids.Node, mesh: a.dialMesh, view: a.hub.View, members: a.memberList, known: known, join: a.cfg.Join, founders: a.epochs.founders}
	a.pool = transport.NewPool(transport.PoolOptions{
		Dial: func(ctx context.Context, node string) (net.Conn, error) {
			return a.book.dial(ctx, node, transport.ALPNRPC)
		},
		Log: a.log.Named("rpc"),
	})
	a.digests = &digestRing{}
	a.recordings = newRecordings(a)
	a.core = &coreRunner{
		cfg: a.cfg.Core, dir: a.dir, self: a.ids.Node, ids: a.ids, epochs: a.epochs, views: a.views, book: a.book, pool: a.pool, clock: hlc, digests: a.digests,
		room: newCoreRoom(a.dir, a.log.Named("core")), log: a.log.Named("core"), changed: make(chan struct{}, 1),
		host: a.host, viaTurns: newChunkTurns(),
		record: a.recordOptions(),
		turns:  newChunkTurns(), fatal: a.storageFailed, stuck: a.commandFailed, report: a.tellTimeline,
		entryTurns: newChunkTurns(), abstain: a.safe.abstains.Load, goneTurn: make(chan struct{}, 1), healNow: make(chan *damageFound, 1),
	}
	if !a.safe.static() {
		if err := a.core.open(); err != nil {
			return err
		}
	}
	a.scrubber = newScrubber(a.core, a.dir, a.ids.ClusterID, a.log.Named("storage"), a.tellTimeline)
	a.space = newSpaceKeeper(a)
	a.yielder = newYielder(a)
	a.leaver = newLeaver(a)
	a.watcher = newWatcher(a)
	a.watcher.sources = a.opsSources()
	a.timeline, a.comparison, a.matrix = a.newTimeline(), newShared[api.DigestComparison](), newShared[api.LinkMatrix]()
	a.sessions = a.newSessionKeeper()
	a.service = api.New(a.apiOptions())
	a.backups, a.canaries, a.gone = newBackups(a), newCanaries(a), &keysGone{now: clock.Boottime}
	a.service.Mount(consul.Routes(consul.Options{Datacenter: a.cfg.Dialect.Datacenter})...)
	a.issuer = newIssuer(a, td)
	a.rotor = &rotor{agent: a, td: td, log: a.log.Named("issuer"), reports: map[string]security.TrustReport{}}
	a.sealKeeper, a.jwtSigner, a.generations = newSealKeeper(a), newJWTSigner(a), newGenerations(a)
	a.workloads = newWorkloadIssuer(a)
	a.identities = a.newIdentities()
	a.renewer = a.newRenewer()
	if err := a.newGossip(socks); err != nil {
		return err
	}
	a.workloadAPI, err = a.newWorkloadAPI(a.identities)
	return err
}

func (a *Agent) newClock() (*clock.Clock, error) {
	mark, err := a.dir.clockMark()
	if err != nil {
		return nil, err
	}
	hlc, err := clock.New(clock.Options{
		Physical: a.opts.Physical, HighWater: mark, Persist: a.dir.saveClockMark,
	})
	if err != nil {
		return nil, fmt.Errorf("start the clock: %w", err)
	}
	return hlc, nil
}

func (a *Agent) newGossip(socks *sockets) error {
	epoch, err := a.dir.nextIncarnation()
	if err != nil {
		return err
	}
	a.incarnation = epoch
	if a.address, err = a.advertise(socks); err != nil {
		return err
	}
	a.address = netip.AddrPortFrom(a.address.Addr().Unmap(), a.address.Port())
	a.gossip, err = membership.New(membership.Options{
		Name: a.ids.Node, Zone: a.ids.Zone, Version: a.opts.Version, ClusterID: a.ids.ClusterID,
		Conn: socks.meshUDP, Advertise: a.address,
		ServerTLS: a.source.QUICServerTLS(transport.ALPNGossip),
		ClientTLS: func(node string) *tls.Config { return a.source.ClientTLS(node, transport.ALPNGossip) },
		Identify:  a.source.Identify, Standing: a.source.Standing,
		DialTCP: func(ctx context.Context, node string, addr netip.AddrPort) (net.Conn, error) {
			return a.dialMesh(ctx, node, transport.ALPNGossip, addr.String())
		},
		HostKey: a.host.Signer, HostKeyOf: a.hostKeyOf, BindingsChanged: a.bindingsChanged(),
		ResetKey: resetKey(a.host), Epoch: epoch, Seeds: a.book.seeds,
		Timing: gossipTiming(a.cfg.Gossip.Profile), Now: a.now, NextBeat: nextBeat, Log: a.log.Named("membership"),
		Told: a.denials.statements, Heard: a.denials.hear,
	})
	return err
}

// resetKey keys QUIC's stateless resets: the same at each start, known to this host alone.
func resetKey(host *security.Host) [32]byte {
	key, err := hkdf.Key(sha256.New, host.Seal.Bytes(), nil, "parley quic stateless reset v1", 32)
	if err != nil {
		panic("agent: derive reset key: " + err.Error()) // only for absurd lengths
	}
	return [32]byte(key)
}

func gossipTiming(profile string) membership.Timing {
	if profile == "fast" {
		return membership.Fast()
	}
	return membership.LAN()
}

// bindingsChanged signals whenever a node's row changed, so that gossip judges refused records anew.
func (a *Agent) bindingsChanged() <-chan struct{} {
	sub, err := a.hub.Subscribe(watch.Selector{Table: state.TableNode, Prefix: true})
	if err != nil {
		panic("agent: the first subscription was refused: " + err.Error())
	}
	return sub.C() // for the life of the process, as the hub is
}

// advertise is the address by which others reach the mesh port.
func (a *Agent) advertise(socks *sockets) (netip.AddrPort, error) {
	text := a.cfg.Mesh.Advertise
	if text == "" {
		text = socks.meshTCP.Addr().String()
	}
	addr, err := netip.ParseAddrPort(text)
	if err != nil {
		return addr, withHint(fmt.Errorf("mesh.advertise %q: %w", text, err), "give an IP address and a port, such as 10.0.0.7:8310")
	}
	if addr.Port() == 0 {
		bound, err := netip.ParseAddrPort(socks.meshTCP.Addr().String())
		if err != nil {
			return addr, err
		}
		addr = netip.AddrPortFrom(addr.Addr(), bound.Port())
	}
	return addr, nil
}

func (a *Agent) memberList() []membership.Member {
	if a.gossip == nil {
		return nil
	}
	return withLeft(a.gossip.Members(), a.hub.View())
}

// withLeft marks those that have left by the replicated state: gossip may have missed their last word, and then holds them
// dead.
func withLeft(members []membership.Member, v *state.View) []membership.Member {
	for i := range members {
		if members[i].State != membership.StateLeft {
			if row, ok := v.Node(members[i].Name); ok && row.Left {
				members[i].State = membership.StateLeft
			}
		}
	}
	return members
}

// membersChanged is closed at gossip's next change. Nobody asks before gossip is there.
func (a *Agent) membersChanged() <-chan struct{} { return a.gossip.NextChange() }

// hostKeyOf is the key that the replicated state binds to a node's name.
func (a *Agent) hostKeyOf(node string) ([]byte, bool) {
	row, ok := a.hub.View().Node(node)
	if ok {
		return row.HostKey, true
	}
	for _, f := range a.epochs.founders() {
		if f.Node == node {
			return f.HostKey, true
		}
	}
	return nil, false
}

// beforeStop runs while everything still works: readiness goes first, then leadership.
func (a *Agent) beforeStop() {
	a.ready.Store(false)
	a.sayStopping()
	ctx, cancel := context.WithTimeout(context.Background(), handOverGrace)
	defer cancel()
	a.core.handOver(ctx)
}

// stoppedBy turns the error of a call that ctx ended into a clean stop.
func stoppedBy(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}
