package api

import (
	"testing"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// A list of tokens shows what joiners will be able to do. It once showed discovery for tokens that made operators.
func TestTokenInfoShowsTheEffectiveRole(t *testing.T) {
	for _, tt := range []struct {
		token state.Token
		want  string
	}{
		{state.Token{Role: policy.Discovery}, "discovery"},
		{state.Token{Role: policy.Discovery, Core: true}, "operator"},
		{state.Token{Role: policy.Operator, Core: true}, "operator"},
	} {
		if got := tokenInfo(tt.token).Role; got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.token, got, tt.want)
		}
	}
}
