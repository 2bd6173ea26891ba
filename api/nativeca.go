package api

import (
	"errors"
	"net/http"
	"time"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// CAStatus is GET /parley/v1/ca: the roots of the trust bundle, and what the replacement of one waits for.
type CAStatus struct {
	Roots          []CARoot  `json:"roots"`
	BundleSequence uint64    `json:"bundle_sequence"`
	RotatesAt      time.Time `json:"rotates_at"` // when the root that signs is replaced by itself
	Wanted         bool      `json:"wanted"`
	Force          bool      `json:"force"`
	Compromised    bool      `json:"compromised"`
	Measured       bool      `json:"measured"` // what follows is of a leader; false without one
	Step           string    `json:"step"`     // none, prepare, activate, retire, or wait
	Reason         string    `json:"reason"`
	WaitingFor     []string  `json:"waiting_for"` // agents, by name
	// Of an authority that another one has signed; nil while the root that signs is the cluster's own.
	Authority     *CAAuthority `json:"authority,omitempty"`
	NextAuthority *CAAuthority `json:"next_authority,omitempty"`
	TokenKeys     []CATokenKey `json:"token_keys"`
}

// CATokenKey is the public half of a key with which a core member signs JWT-SVIDs.
type CATokenKey struct {
	ID          string    `json:"id"` // the kid
	Node        string    `json:"node"`
	PublishedAt time.Time `json:"published_at"`
	NotAfter    time.Time `json:"not_after"`
	WaitingFor  []string  `json:"waiting_for,omitempty"` // agents that do not hold it yet, while it waits to sign; by the leader's measurement
}

// CAAuthority is an authority of this cluster that one above it has signed.
type CAAuthority struct {
	Hash      string    `json:"hash"`
	Subject   string    `json:"subject"`
	SignedBy  string    `json:"signed_by"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"` // or of what is above it, whichever ends first
}

// CARequest is the certificate request for an authority, to be signed by the one above.
type CARequest struct {
	Node    string `json:"node"` // where the chain has to be brought back
	Request string `json:"request"`
}

// CAChain is the answer of the authority above: the chain, PEM, the cluster's authority first and the root last.
type CAChain struct {
	Chain string `json:"chain"`
}

// CARoot is one root. Role is signing, next or old.
type CARoot struct {
	Hash      string    `json:"hash"`
	Subject   string    `json:"subject"`
	Role      string    `json:"role"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

func caRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/parley/v1/ca", Action: policy.BundleRead, Serve: serveCAStatus},
		{Method: http.MethodPost, Path: "/parley/v1/ca/rotate", Action: policy.CARotate, Serve: serveCARotate},
		{Method: http.MethodPost, Path: "/parley/v1/ca/request", Action: policy.CARotate, Serve: serveCARequest},
		{Method: http.MethodPost, Path: "/parley/v1/ca/external", Action: policy.CARotate, Serve: serveCAExternal},
		{Method: http.MethodPost, Path: "/parley/v1/ca/leave", Action: policy.CARotate, Serve: serveCALeave},
		{Method: http.MethodPost, Path: "/parley/v1/ca/reseal", Action: policy.CARotate, Serve: serveCAReseal},
		{Method: http.MethodPost, Path: "/parley/v1/ca/token-key", Action: policy.CARotate, Serve: serveCATokenKey},
	}
}

func serveCAStatus(x *Exchange) error {
	status, err := x.service.local.CAStatus(x.Context())
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, status)
}

func serveCARequest(x *Exchange) error {
	request, err := x.service.local.CARequest()
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, request)
}

func serveCAExternal(x *Exchange) error {
	var body CAChain
	if err := x.Decode(&body); err != nil {
		return err
	}
	authority, err := x.service.local.CAExternal(x.Context(), x.service.callerName(x.Caller), []byte(body.Chain))
	if err != nil {
		return aboutRoots(err)
	}
	return x.JSON(http.StatusOK, authority)
}

// caResealBody is POST /parley/v1/ca/reseal.
type caResealBody struct {
	RecoveryKey string `json:"recovery_key"`
}

// serveCAReseal takes the recovery key on the host itself alone: it is to cross no network.
func serveCAReseal(x *Exchange) error {
	if x.Caller.Kind != KindSocket && x.Caller.Kind != KindAnonymous {
		return Errorf(CodeDenied, "the recovery key is taken on the host itself alone").
			WithHint("run parley ca reseal there, by the admin socket")
	}
	var body caResealBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	if err := x.service.local.CAReseal(x.Context(), []byte(body.RecoveryKey)); err != nil {
		return aboutRoots(err)
	}
	return x.JSON(http.StatusOK, map[string]any{"node": x.service.local.Node, "sealed": true})
}

// CATokenKeyUsed is the answer of POST /parley/v1/ca/token-key.
type CATokenKeyUsed struct {
	Node    string   `json:"node"`
	ID      string   `json:"id"`
	Without []string `json:"without"` // agents whose programs refuse its tokens until they hold it
}

// serveCATokenKey has the next key of tokens of this agent sign though some do not hold it.
func serveCATokenKey(x *Exchange) error {
	used, err := x.service.local.UseTokenKey()
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, used)
}

// aboutRoots says what to do about a refusal for the sake of which root signs: the standard hints are about keys and names.
func aboutRoots(err error) error {
	var known *Error
	if errors.As(err, &known) && (known.Code == CodeConflict || known.Code == CodeExists) && known.Hint == known.class().hint {
		return known.WithHint("parley ca status says which root signs and which is next: wait until that is done, then run it again if it is still needed")
	}
	return err
}

func serveCALeave(x *Exchange) error {
	done, err := x.service.Execute(x.Context(), x.Caller, state.UpstreamLeave{})
	if err != nil {
		return aboutRoots(err)
	}
	x.applied(done)
	return x.JSON(http.StatusOK, map[string]any{"asked": true})
}

// caRotateBody is POST /parley/v1/ca/rotate.
type caRotateBody struct {
	Force       bool `json:"force"`
	Compromised bool `json:"compromised"`
}

func serveCARotate(x *Exchange) error {
	var body caRotateBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	done, err := x.service.Execute(x.Context(), x.Caller, state.CARotate{Force: body.Force, Compromised: body.Compromised})
	if err != nil {
		return err
	}
	x.applied(done)
	return x.JSON(http.StatusOK, map[string]any{"force": body.Force, "compromised": body.Compromised, "asked": true})
}
