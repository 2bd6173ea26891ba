package api

import (
	"net/http"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

func operatorRoutes() []Route {
	return []Route{
		{Method: http.MethodPost, Path: "/parley/v1/operator", Action: policy.OperatorWrite, Serve: serveOperatorAdd},
		{Method: http.MethodGet, Path: "/parley/v1/operators", Action: policy.OperatorRead, Takes: []string{"stale"}, Serve: serveOperatorList},
		{Method: http.MethodGet, Path: "/parley/v1/operator/*", Action: policy.OperatorRead, Takes: []string{"stale"}, Serve: serveOperatorShow},
		{Method: http.MethodDelete, Path: "/parley/v1/operator/*", Action: policy.OperatorWrite, Once: true, Serve: serveOperatorRemove},
		{Method: http.MethodPost, Path: "/parley/v1/identity/renew", Action: policy.OperatorRenew, Serve: serveIdentityRenew},
	}
}

// operatorBody is POST /parley/v1/operator. CSR is PKCS #10, DER; it names the operator.
type operatorBody struct {
	Role    string `json:"role"`
	CSR     []byte `json:"csr"`
	Replace bool   `json:"replace"`
}

func serveOperatorAdd(x *Exchange) error {
	var body operatorBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	role, err := policy.ParseRole(body.Role)
	if err != nil {
		return Errorf(CodeInvalid, "%v", err)
	}
	done, svid, err := x.service.BindOperator(x.Context(), x.Caller, body.CSR, role, body.Replace)
	if done.Index > 0 {
		x.applied(done)
	}
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, svid)
}

// renewBody is POST /parley/v1/identity/renew.
type renewBody struct {
	CSR []byte `json:"csr"`
}

func serveIdentityRenew(x *Exchange) error {
	var body renewBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	svid, err := x.service.IssueOperator(x.Context(), x.Caller, body.CSR)
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, svid)
}

// operators is a View as fresh as the caller wants it: with ?stale that of this agent, with or without a leader.
func (x *Exchange) operators() (*state.View, error) {
	if !x.Flag("stale") {
		if err := x.service.catchUp(x.Context()); err != nil {
			return nil, err
		}
	}
	return x.service.local.Hub.View(), nil
}

func serveOperatorList(x *Exchange) error {
	v, err := x.operators()
	if err != nil {
		return err
	}
	list := []OperatorInfo{}
	for _, o := range v.Operators() {
		list = append(list, x.service.operatorInfo(o))
	}
	return x.JSON(http.StatusOK, list)
}

func serveOperatorShow(x *Exchange) error {
	v, err := x.operators()
	if err != nil {
		return err
	}
	o, ok := v.Operator(x.Rest)
	if !ok {
		return Errorf(CodeNotFound, "there is no operator %q", x.Rest).WithHint("list them: parley operator list")
	}
	return x.JSON(http.StatusOK, x.service.operatorInfo(o))
}

func serveOperatorRemove(x *Exchange) error {
	done, err := x.Execute(state.OperatorRemove{Name: x.Rest})
	if err != nil {
		return err
	}
	x.applied(done)
	return x.JSON(http.StatusOK, map[string]any{"name": x.Rest, "removed": true})
}
