package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/external"
	"github.com/parley-mesh/parley/transport"
)

// firstIdentityWait is how long a start waits for the first identity by the Workload API. SPIRE tells its agents of a new
// entry within seconds; whoever starts this agent tries again after that.
const firstIdentityWait = 30 * time.Second

// outside is an agent's part in a cluster whose agents are certified by another authority. Its zero value is a cluster that does
// it itself.
type outside struct {
	feed  *external.Feed
	first *security.External
}

// certifiedOutside tells whether the agents of this cluster have their certificates by the Workload API of their hosts.
func (a *Agent) certifiedOutside() bool { return a.cfg.Identity.Source == config.SourceWorkloadAPI }

// checkSource refuses an agent that would change the authority of its identity by a line in its configuration. The others would
// not accept it, and whoever wrote it by mistake would have gone on with another trust than he believes.
func (a *Agent) checkSource(ids clusterIDs) error {
	had, has := ids.identitySource(), a.cfg.Identity.Source
	if had == has {
		return nil
	}
	return withHint(fmt.Errorf("%s belongs to a cluster with identity.source = %q, the configuration says %q", a.dir.path, had, has),
		"set identity.source to "+had+"; another source is for another cluster: an empty --data-dir, and parley init or a token of that cluster")
}

// identitySource is what the directory was made for; one from before there was a choice has the built-in one.
func (ids clusterIDs) identitySource() string {
	if ids.IdentitySource == "" {
		return config.SourceBuiltIn
	}
	return ids.IdentitySource
}

// kept is what cluster.toml says of a source.
func kept(source string) string {
	if source == config.SourceBuiltIn {
		return ""
	}
	return source
}

// askOutside waits for this agent's first identity by the Workload API. Once is enough for a run. Without such a source it does
// nothing.
func (a *Agent) askOutside(ctx context.Context, trustDomain, node string) error {
	if !a.certifiedOutside() || a.outside.feed != nil {
		return nil
	}
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return err
	}
	id, err := security.AgentID(td, node)
	if err != nil {
		return err
	}
	feed, err := external.New(ctx, external.Options{Addr: a.cfg.Identity.WorkloadAPI, ID: id, Log: a.log.Named("security")})
	if err != nil {
		return err
	}
	wait := a.opts.firstIdentity
	if wait == 0 {
		wait = firstIdentityWait
	}
	a.log.Info("waiting for this agent's identity", zap.Stringer("spiffe_id", id), zap.String("addr", a.cfg.Identity.WorkloadAPI))
	inner, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	first, err := feed.First(inner)
	if err != nil {
		err = errors.Join(err, feed.Close())
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return hintOutside(err)
	}
	a.outside = outside{feed: feed, first: first}
	return nil
}

func hintOutside(err error) error {
	var told *external.Error
	if errors.As(err, &told) {
		return withHint(err, told.Hint)
	}
	return err
}

// close ends the connection to the Workload API.
func (o *outside) close() {
	if o.feed != nil {
		_ = o.feed.Close() // nothing is written there
	}
	*o = outside{}
}

// renewalErr is why this agent's certificate was not renewed when that was tried last.
func (a *Agent) renewalErr() error {
	if a.outside.feed != nil {
		return a.outside.feed.Err()
	}
	return a.renewer.Err()
}

// errOutside refuses what only a cluster does that certifies its own agents.
var errOutside = &transport.Error{
	Code: api.CodeDenied, Message: security.ErrExternal.Error(),
	Hint: "ask the authority that serves the Workload API, such as SPIRE: it certifies programs too",
}

// certifies returns errOutside where the cluster signs no identities at all: two authorities that speak for one trust domain
// without knowing of each other would make every verifier's answer depend on whom it has heard of.
func (a *Agent) certifies() error {
	if a.certifiedOutside() {
		return errOutside
	}
	return nil
}

// knownAgent refuses an agent that the applied state does not know. Where the cluster certifies its agents the certificate
// itself says that it admitted the host. One by another authority does not: it says that somebody registered a name there.
func (a *Agent) knownAgent(peer transport.Peer) error {
	if !a.certifiedOutside() {
		return nil
	}
	if _, known := a.hostKeyOf(peer.Node); known {
		return nil
	}
	return &transport.Error{
		Code: api.CodeDenied, Message: fmt.Sprintf("%s is not a member of this cluster, or became one a moment ago", peer.Node),
		Hint: "being registered with the authority is not enough: an agent joins with a token",
	}
}
