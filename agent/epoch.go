package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

const (
	// epochFile is the newest epoch that was proven to this host, with the proof. It comes before anything that follows
	// from it, so that a start after a crash goes on where the crash was.
	epochFile = "epoch.json"
	// epochPurpose is what host keys sign statements of epochs for.
	epochPurpose = "epoch"
	// maxEpochFile is above what epochFile needs: the proof in base64, and a line besides.
	maxEpochFile = 2 * state.MaxEpochProofBytes
)

// epochs is what this agent knows of the epochs of its cluster: that of its View, or a later one that another agent has
// proven to it. A later one that is only claimed changes nothing. Safe for concurrent use. A nil one knows no epoch.
type epochs struct {
	dir  *dataDir
	view func() *state.View
	home state.Epoch // of the Raft id that this host had at its start; the View may not know yet
	log  *zap.Logger

	newest  atomic.Pointer[provenEpoch] // nil: none was proven
	refused atomic.Uint64               // connections, because of the epochs of their ends

	mu struct {
		sync.Mutex // held while the file is written: whoever learns the same waits
		learned    chan struct{}
		told       map[string]string // by peer, why its last connection ended, if it ended by its epoch; at most maxTold
		atOdds     map[string]bool   // those of them with whom time alone makes nothing right
	}
}

// maxTold bounds what is remembered of peers in order not to log the same again.
const maxTold = 1024

// provenEpoch is epochFile.
type provenEpoch struct {
	Epoch string `json:"epoch"`
	Proof []byte `json:"proof"` // state.EncodeEpochProof

	epoch    state.Epoch
	founders []state.EpochStatement // of hosts that the View did not know
}

func newEpochs(dir *dataDir, home state.Epoch, view func() *state.View, log *zap.Logger) *epochs {
	e := &epochs{dir: dir, home: home, view: view, log: log}
	e.mu.learned, e.mu.told, e.mu.atOdds = make(chan struct{}), make(map[string]string), make(map[string]bool)
	p, err := dir.readEpoch()
	if err != nil { // it is learned again
		log.Warn("what this host knew of the newest epoch cannot be read", zap.Error(err))
	}
	if p != nil {
		list, _ := state.DecodeEpochProof(p.Proof) // readEpoch has decoded it
		p.founders = view().Founders(list, validStatement)
	}
	e.newest.Store(p)
	return e
}

// readEpoch returns what was proven to this host, nil if nothing.
func (d *dataDir) readEpoch() (*provenEpoch, error) {
	raw, err := storage.ReadFile(d.fs, d.join(epochFile), maxEpochFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	p := &provenEpoch{}
	if err == nil {
		err = json.Unmarshal(raw, p)
	}
	if err == nil {
		p.epoch, err = state.ParseEpoch(p.Epoch)
	}
	if err == nil {
		_, err = state.DecodeEpochProof(p.Proof)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", epochFile, err)
	}
	return p, nil
}

func (d *dataDir) writeEpoch(e state.Epoch, proof []byte) error {
	raw, err := json.Marshal(provenEpoch{Epoch: e.String(), Proof: proof})
	if err != nil {
		return err
	}
	return d.write(epochFile, append(raw, '\n'))
}

// current is the newest epoch that this agent has reason to believe in; the zero one before it knows any.
func (e *epochs) current() state.Epoch {
	own := e.view().Cluster().Epoch
	if own.Counter < e.home.Counter {
		own = e.home
	}
	if p := e.newest.Load(); p != nil && p.epoch.Counter > own.Counter {
		return p.epoch
	}
	return own
}

// validStatement verifies what a host, or a root, has signed about an epoch.
func validStatement(key, signed, signature []byte) bool {
	return security.VerifyStatement(key, epochPurpose, signed, signature) || security.VerifyRootStatement(key, epochPurpose, signed, signature)
}

// founders are the hosts that a root has brought in with an epoch which the View has not reached yet: until it has, their
// keys and addresses are known from the proof alone.
func (e *epochs) founders() []state.EpochStatement {
	if e == nil {
		return nil
	}
	p := e.newest.Load()
	if p == nil || len(p.founders) == 0 || e.view().Cluster().Epoch.Counter >= p.epoch.Counter {
		return nil
	}
	return p.founders
}

// passed reports whether another epoch has begun since.
func (e *epochs) passed(since state.Epoch) bool {
	if e == nil {
		return false
	}
	p := e.newest.Load()
	return p != nil && p.epoch.Counter > since.Counter
}

// learned is closed when the next newer epoch is proven.
func (e *epochs) learned() <-chan struct{} {
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.learned
}

// within returns a context that ends with ctx, or when the epoch of a Raft id has passed.
func (e *epochs) within(ctx context.Context, epoch state.Epoch) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for news := e.learned(); !e.passed(epoch); news = e.learned() {
			select {
			case <-news:
			case <-ctx.Done():
				return
			}
		}
		cancel()
	}()
	return ctx, cancel
}

// proof is what proves the current epoch to others.
func (e *epochs) proof() []byte {
	v := e.view()
	if p := e.newest.Load(); p != nil && p.epoch.Counter >= v.Cluster().Epoch.Counter {
		return p.Proof
	}
	return state.EncodeEpochProof(v.EpochStatements())
}

// learn takes a proof from a peer that claims a newer epoch, if this agent's own state bears it out.
func (e *epochs) learn(proof []byte) (state.Epoch, error) {
	list, err := state.DecodeEpochProof(proof)
	if err != nil {
		return state.Epoch{}, fmt.Errorf("%w: %w", state.ErrEpochUnproven, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	was := e.current()
	epoch, err := e.view().ProveEpoch(was, list, validStatement)
	if err != nil {
		return epoch, err
	}
	// Believed at once: what this agent has to stop it stops even if the file cannot be written.
	e.newest.Store(&provenEpoch{Epoch: epoch.String(), Proof: proof, epoch: epoch, founders: e.view().Founders(list, validStatement)})
	close(e.mu.learned)
	e.mu.learned = make(chan struct{})
	e.log.Warn("the cluster has begun a new epoch without this agent, which follows it now", zap.Stringer("epoch", epoch), zap.Stringer("before", was))
	if err := e.dir.writeEpoch(epoch, proof); err != nil {
		e.log.Warn("the new epoch could not be written down", zap.Error(err))
	}
	return epoch, nil
}

// persist writes down what is known, for who goes on to do what cannot be undone.
func (e *epochs) persist() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.newest.Load()
	return e.dir.writeEpoch(p.epoch, p.Proof)
}

// tell logs why a peer was refused, once for each reason.
func (e *epochs) tell(peer string, refused *EpochError) {
	text := refused.Error()
	e.refused.Add(1)
	e.mu.Lock()
	again := e.mu.told[peer] == text
	if len(e.mu.told) >= maxTold {
		clear(e.mu.told)
		clear(e.mu.atOdds)
	}
	e.mu.told[peer] = text
	e.mu.atOdds[peer] = refused.atOdds()
	e.mu.Unlock()
	if !again {
		e.log.Warn("a connection ends because of the epochs of its two ends", zap.String("peer", peer), zap.Error(refused))
	}
}

// agreed forgets what there was with a peer.
func (e *epochs) agreed(peer string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.mu.told, peer)
	delete(e.mu.atOdds, peer)
}

// odds says in words with whom this agent cannot come to terms by itself; empty if with nobody.
func (e *epochs) odds() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, peer := range slices.Sorted(maps.Keys(e.mu.atOdds)) {
		if e.mu.atOdds[peer] {
			return e.mu.told[peer]
		}
	}
	return ""
}
