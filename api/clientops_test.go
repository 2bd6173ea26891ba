package api

import (
	"encoding/json"
	"reflect"
	"testing"
)

// The client's own shapes of objectives, alerts and causes hold everything that the endpoints say.
func TestClientReadsOps(t *testing.T) {
	c := newClient(t, newFake(t, 1, 1).agents["a1"])
	same := func(what string, got any, err error, want any) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		if g, w := asJSON(t, got), asJSON(t, want); !reflect.DeepEqual(g, w) {
			t.Errorf("%s:\n got %v\nwant %v", what, g, w)
		}
	}
	slos, err := c.SLOs(t.Context())
	same("objectives", slos, err, fakeSnapshot.SLOs)
	alerts, err := c.Alerts(t.Context())
	same("alerts", alerts, err, fakeSnapshot.Alerts)
	explanation, err := c.Explain(t.Context())
	same("explanation", explanation, err, fakeSnapshot.Explain())
}

// asJSON is v as JSON has it.
func asJSON(t *testing.T, v any) (out any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
