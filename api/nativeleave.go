package api

import (
	"net/http"
	"time"

	"github.com/parley-mesh/parley/state"
)

const defaultHold = time.Hour

// holdBody is POST /parley/v1/core/hold: maintenance of a node for some time, or with release its end.
type holdBody struct {
	Node    string `json:"node"`
	For     string `json:"for"`
	Release bool   `json:"release"`
}

// holdAnswer is what it answers. Until is absent after a release.
type holdAnswer struct {
	Node  string     `json:"node"`
	Until *time.Time `json:"until,omitempty"`
}

func serveCoreHold(x *Exchange) error {
	var body holdBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	period, err := body.period()
	if err != nil {
		return err
	}
	done, err := x.service.Execute(x.Context(), x.Caller, state.CoreHold{Node: body.Node, Millis: uint64(period.Milliseconds())}) //nolint:gosec // not negative
	if err != nil {
		return err
	}
	x.applied(done)
	answer := holdAnswer{Node: body.Node}
	if period > 0 {
		until := done.Stamp.Wall().Add(period)
		answer.Until = &until
	}
	return x.JSON(http.StatusOK, answer)
}

func (b holdBody) period() (time.Duration, error) {
	switch {
	case b.Release && b.For != "":
		return 0, Errorf(CodeInvalid, "a release has no length").WithHint("send release or for, not both")
	case b.Release:
		return 0, nil
	case b.For == "":
		return defaultHold, nil
	}
	const limit = state.MaxHoldMillis * time.Millisecond
	period, err := time.ParseDuration(b.For)
	if err != nil || period < time.Second || period > limit {
		return 0, Errorf(CodeInvalid, "for %q is not a duration from 1s to %s", b.For, limit).WithHint("hold it again when that is over")
	}
	return period, nil
}

// serveLeaveLook says what would become of the core if this agent left, and changes nothing.
func serveLeaveLook(x *Exchange) error {
	answer, err := x.service.local.Leave(x.Context(), true)
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, answer)
}

// serveLeave takes this agent out of the cluster. It stops soon after the answer.
func serveLeave(x *Exchange) error {
	answer, err := x.service.local.Leave(x.Context(), false)
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, answer)
}
