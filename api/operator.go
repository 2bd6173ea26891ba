package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

const methodIssue = "op.operator.issue"

// How often certificates of operators are asked for. One a half hour is usual, so the bounds are for mistakes: an
// operator's own is kept where it is signed, the callers' here.
const (
	issueRate  = 1.0
	issueBurst = 10.0
	askRate    = 50.0
	askBurst   = 500.0

	maxIssueAnswer = 256 << 10 // a chain and all roots of a bundle
)

// OperatorInfo is one row of GET /parley/v1/operators. KeySHA256 is what the name is bound to: the hash of the key's
// SubjectPublicKeyInfo, in hex.
type OperatorInfo struct {
	Name       string    `json:"name"`
	SPIFFEID   string    `json:"spiffe_id"`
	Role       string    `json:"role"`
	KeySHA256  string    `json:"key_sha256"`
	CreatedAt  time.Time `json:"created_at"`
	CreatedBy  string    `json:"created_by"`
	Generation uint64    `json:"generation"`
}

// OperatorSVID is the certificate of an operator with its issuer, DER, leaf first, and the roots to trust.
type OperatorSVID struct {
	SPIFFEID  string    `json:"spiffe_id"`
	Role      string    `json:"role"`
	NotAfter  time.Time `json:"not_after"`
	Chain     [][]byte  `json:"chain"`
	BundleSeq uint64    `json:"bundle_seq"`
	Roots     [][]byte  `json:"roots"`
}

// operatorRequest reads a certificate request for this cluster.
func (s *Service) operatorRequest(csr []byte) (security.OperatorRequest, *Error) {
	req, err := security.ParseOperatorRequest(s.local.TrustDomain, csr)
	if err != nil {
		return req, Errorf(CodeInvalid, "%v", err).WithHint("have it made by parley operator add, or api/client")
	}
	return req, nil
}

// mayGrant keeps everybody from giving a role above the own, whatever the table of actions says.
func mayGrant(caller Caller, role policy.Role) *Error {
	if policy.Min(caller.Role, role) == role {
		return nil
	}
	return Errorf(CodeDenied, "role %s may not give the role %s", caller.Role, role)
}

// BindOperator binds the name in a certificate request to the request's key, and has the certificate signed. Who sends
// the same again gets the same binding and a certificate. When the binding is written and the certificate is not to be
// had, the error says how to get it later.
func (s *Service) BindOperator(ctx context.Context, caller Caller, csr []byte, role policy.Role, replace bool) (Applied, OperatorSVID, error) {
	req, failed := s.operatorRequest(csr)
	if failed != nil {
		return Applied{}, OperatorSVID{}, failed
	}
	if s.local.Certifies != nil {
		if err := s.local.Certifies(); err != nil {
			return Applied{}, OperatorSVID{}, err // before a key is bound that nobody would certify
		}
	}
	done, err := s.Execute(ctx, caller, state.OperatorBind{Name: req.Name, Role: role, KeyHash: req.KeyHash, Replace: replace})
	if err != nil {
		if refused := AsError(err); refused.Code == CodeExists {
			err = refused.WithHint("bind the name anew on purpose: parley operator add %s --replace; a key is for one name", req.Name)
		}
		return done, OperatorSVID{}, err
	}
	svid, err := s.IssueOperator(ctx, caller, csr)
	if err != nil {
		refused := AsError(err)
		if refused.Code == CodeDenied && refused.Hint != "" {
			return done, svid, refused.WithHint("the key is bound to %s; %s; then: parley operator renew --identity DIR", req.Name, refused.Hint)
		}
		return done, svid, refused.WithHint("the key is bound to %s; get its certificate with: parley operator renew --identity DIR", req.Name)
	}
	return done, svid, nil
}

// IssueOperator has the leader sign a certificate for a key that is bound to the name in the request. The request proves
// the key, so it does not matter who brings it; and since only a leader that a majority has confirmed answers, nobody who
// was removed gets one, however little this agent has heard.
func (s *Service) IssueOperator(ctx context.Context, caller Caller, csr []byte) (svid OperatorSVID, err error) {
	if err := allow(caller, policy.OperatorRenew); err != nil {
		return svid, err
	}
	if !s.issueAsks.allow(caller.identity()) {
		return svid, Errorf(CodeTooMany, "this caller asks for certificates more than %g times a second", askRate).
			WithHint("renew at half of a certificate's life, and try again in a minute after a failure")
	}
	if _, failed := s.operatorRequest(csr); failed != nil {
		return svid, failed
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.OpTimeout)
	defer cancel()
	err = s.withLeader(ctx, func(leader string, self bool) (failed *Error) {
		if self {
			svid, failed = s.issueHere(ctx, csr)
		} else {
			svid, failed = s.askIssue(ctx, leader, csr)
		}
		return failed
	})
	return svid, err
}

func (s *Service) askIssue(ctx context.Context, leader string, csr []byte) (svid OperatorSVID, failed *Error) {
	raw, err := s.local.Call(ctx, leader, methodIssue, csr)
	if err != nil {
		return svid, asReadError(err)
	}
	if len(raw) > maxIssueAnswer {
		return svid, Errorf(CodeInternal, "certificate of %s has %d bytes", leader, len(raw))
	}
	if err := json.Unmarshal(raw, &svid); err != nil {
		return svid, Errorf(CodeInternal, "certificate of %s: %v", leader, err)
	}
	return svid, nil
}

// issueHere signs on the leader.
func (s *Service) issueHere(ctx context.Context, csr []byte) (svid OperatorSVID, failed *Error) {
	req, failed := s.operatorRequest(csr)
	if failed != nil {
		return svid, failed
	}
	if failed := s.leadHere(ctx); failed != nil {
		return svid, failed
	}
	row, known := s.local.Hub.View().Operator(req.Name)
	if !known || row.KeyHash != req.KeyHash {
		return svid, Errorf(CodeDenied, "the key is not bound to an operator %q: it was removed, or bound to another key", req.Name).
			WithHint("have an operator add it: parley operator add %s", req.Name)
	}
	if failed := deniedOperator(s.local.Hub.View(), req.ID().String(), clock.System()); failed != nil {
		return svid, failed
	}
	if !s.issues.allow(req.Name) {
		return svid, Errorf(CodeTooMany, "certificates of %q are asked for more than %g times a second", req.Name, issueRate).
			WithHint("renew at half of a certificate's life, and try again in a minute after a failure")
	}
	chain, notAfter, err := s.local.SignOperator(req)
	if err != nil {
		return svid, AsError(err)
	}
	bundle := s.local.Hub.View().Bundle()
	return OperatorSVID{
		SPIFFEID: req.ID().String(), Role: string(row.Role), NotAfter: notAfter, Chain: chain, BundleSeq: bundle.Sequence, Roots: bundle.Roots,
	}, nil
}

func (s *Service) handleIssue(ctx context.Context, csr []byte) ([]byte, *Error) {
	svid, failed := s.issueHere(ctx, csr)
	if failed != nil {
		return nil, failed
	}
	raw, err := json.Marshal(svid)
	if err != nil {
		return nil, Errorf(CodeInternal, "encode certificate: %v", err)
	}
	return raw, nil
}

func (s *Service) operatorInfo(o state.Operator) OperatorInfo {
	id, _ := security.OperatorID(s.local.TrustDomain, o.Name) // a row's name is one
	return OperatorInfo{
		Name: o.Name, SPIFFEID: id.String(), Role: string(o.Role), KeySHA256: hex.EncodeToString(o.KeyHash[:]),
		CreatedAt: o.CreatedAt.Wall().UTC(), CreatedBy: o.CreatedBy, Generation: o.Generation,
	}
}
