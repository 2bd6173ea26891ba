package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

const (
	defaultTokenTTL = 10 * time.Minute
	maxTokenTTL     = 30 * 24 * time.Hour
	maxTokenAnswer  = 4 << 20
)

// tokenBody is POST /parley/v1/token; everything has a default.
type tokenBody struct {
	TTL     string `json:"ttl"`
	Uses    int    `json:"uses"`
	Node    string `json:"node"`
	Role    string `json:"role"`
	Core    bool   `json:"core"`
	Replace string `json:"replace"`
}

func serveTokenCreate(x *Exchange) error {
	var body tokenBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	spec, err := body.spec()
	if err != nil {
		return err
	}
	answer, err := x.service.local.CreateToken(x.Context(), x.Caller, spec)
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, answer)
}

func (b tokenBody) spec() (TokenSpec, error) {
	spec := TokenSpec{TTL: defaultTokenTTL, Uses: b.Uses, Node: b.Node, Role: b.Role, Core: b.Core, Replace: b.Replace}
	if spec.Uses == 0 {
		spec.Uses = 1
	}
	if spec.Role == "" {
		spec.Role = string(policy.Discovery)
	}
	role, err := policy.ParseRole(spec.Role)
	if err != nil {
		return spec, Errorf(CodeInvalid, "%v", err)
	}
	if b.Role != "" && b.Core && role != policy.Operator {
		return spec, Errorf(CodeInvalid, "an agent that may be in the core has the role operator, not %s", role).
			WithHint("leave out --role, or --core")
	}
	if spec.Uses < 1 || spec.Uses > state.MaxTokenUses {
		return spec, Errorf(CodeInvalid, "uses is %d, it can be 1 to %d", spec.Uses, state.MaxTokenUses)
	}
	if b.TTL == "" {
		return spec, nil
	}
	ttl, err := time.ParseDuration(b.TTL)
	if err != nil || ttl < time.Second || ttl > maxTokenTTL {
		return spec, Errorf(CodeInvalid, "ttl %q is not a duration from 1s to %s", b.TTL, maxTokenTTL)
	}
	spec.TTL = ttl
	return spec, nil
}

func serveTokenList(x *Exchange) error {
	tokens, err := x.service.Tokens(x.Context(), x.Caller)
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, tokens)
}

// Tokens lists the join tokens without their secrets, as the leader knows them: only the core holds tokens.
func (s *Service) Tokens(ctx context.Context, caller Caller) ([]TokenInfo, error) {
	if err := allow(caller, policy.TokenList); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.OpTimeout)
	defer cancel()
	var tokens []TokenInfo
	err := s.withLeader(ctx, func(leader string, self bool) *Error {
		var failed *Error
		tokens, failed = s.askTokens(ctx, leader, self, caller)
		return failed
	})
	return tokens, err
}

func (s *Service) askTokens(ctx context.Context, leader string, self bool, caller Caller) ([]TokenInfo, *Error) {
	if self {
		if err := s.leadHere(ctx); err != nil {
			return nil, err
		}
		return s.tokensHere(), nil
	}
	body := appendRead(nil, readRequest{role: caller.Role, kind: caller.Kind, name: s.callerName(caller)})
	raw, err := s.local.Call(ctx, leader, methodTokens, body)
	if err != nil {
		return nil, asReadError(err)
	}
	var tokens []TokenInfo
	if len(raw) > maxTokenAnswer {
		return nil, Errorf(CodeInternal, "token list of %s has %d bytes", leader, len(raw))
	}
	if err := json.Unmarshal(raw, &tokens); err != nil {
		return nil, Errorf(CodeInternal, "token list of %s: %v", leader, err)
	}
	return tokens, nil
}

func (s *Service) tokensHere() []TokenInfo {
	rows := s.local.Hub.View().Tokens()
	out := make([]TokenInfo, 0, len(rows))
	for _, t := range rows {
		out = append(out, tokenInfo(t))
	}
	return out
}

func serveTokenRevoke(x *Exchange) error {
	done, err := x.service.Execute(x.Context(), x.Caller, state.TokenRevoke{ID: x.Rest})
	if err != nil {
		return err
	}
	x.applied(done)
	return x.JSON(http.StatusOK, map[string]any{"id": x.Rest, "revoked": true})
}

// allowBody is POST /parley/v1/core/allow; allow false takes the core grant away.
type allowBody struct {
	Node  string `json:"node"`
	Allow bool   `json:"allow"`
}

func serveCoreAllow(x *Exchange) error {
	body := allowBody{Allow: true}
	if err := x.Decode(&body); err != nil {
		return err
	}
	return x.executeAndEcho(state.CoreGrant{Node: body.Node, Allow: body.Allow}, body)
}

// sizeBody is POST /parley/v1/core/size.
type sizeBody struct {
	Size int `json:"size"`
}

func serveCoreSize(x *Exchange) error {
	var body sizeBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	return x.executeAndEcho(state.SetCoreSize{Size: body.Size}, body)
}

// roleBody is POST /parley/v1/agent/role.
type roleBody struct {
	Node string `json:"node"`
	Role string `json:"role"`
}

func serveAgentRole(x *Exchange) error {
	var body roleBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	role, err := policy.ParseRole(body.Role)
	if err != nil {
		return Errorf(CodeInvalid, "%v", err)
	}
	return x.executeAndEcho(state.NodeSetRole{Node: body.Node, Role: role}, body)
}

// trustBody is POST /parley/v1/agent/trust.
type trustBody struct {
	Node string `json:"node"`
}

func serveAgentTrust(x *Exchange) error {
	var body trustBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	return x.executeAndEcho(state.NodeTrust{Node: body.Node}, body)
}

// executeAndEcho answers a command that has no result of its own with what was set.
func (x *Exchange) executeAndEcho(cmd state.Command, body any) error {
	done, err := x.service.Execute(x.Context(), x.Caller, cmd)
	if err != nil {
		return err
	}
	x.applied(done)
	return x.JSON(http.StatusOK, body)
}
