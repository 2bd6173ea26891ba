package api

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/state"
)

// TestSnapshotStream: an answer far over the limit of bodies arrives whole; a stream that fails half way is an error
// for its reader, and one at a time is served.
func TestSnapshotStream(t *testing.T) {
	c := newFake(t, 1, 1)
	service := c.agents["a1"].withRole("operator")
	c.put("k", strings.Repeat("v", 1000))
	began, goOn := make(chan struct{}), make(chan struct{})
	size, fails := 40<<20, error(nil)
	service.local.WriteSnapshot = func(v *state.View, w io.Writer) error {
		if _, ok := v.Get("k"); !ok {
			t.Error("the write before it is missing")
		}
		select {
		case began <- struct{}{}:
			<-goOn
		default:
		}
		for range size >> 20 {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
		return fails
	}
	server := httptest.NewServer(service.Handler(Loopback))
	defer server.Close()
	cl, err := client.New(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var got bytes.Buffer
	if err := cl.SaveSnapshot(t.Context(), false, &got); err != nil || got.Len() != size {
		t.Fatalf("%d bytes, %v", got.Len(), err)
	}
	first := make(chan error, 1)
	go func() { first <- cl.SaveSnapshot(t.Context(), true, io.Discard) }()
	<-began
	var refused *client.Error
	if err := cl.SaveSnapshot(t.Context(), true, io.Discard); !errors.As(err, &refused) || refused.Code != CodeBusy {
		t.Errorf("beside another: %v", err)
	}
	close(goOn)
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
	fails = errors.New("the disk broke")
	if err := cl.SaveSnapshot(t.Context(), true, io.Discard); err == nil {
		t.Error("half a backup looks like a whole one")
	}
}

// TestSnapshotOutsideTheCore: an agent without the whole state names those that have it.
func TestSnapshotOutsideTheCore(t *testing.T) {
	c := newFake(t, 2, 1)
	w := do(c.agents["a2"].withRole("operator").Handler(Loopback), http.MethodGet, "/parley/v1/snapshot", "")
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "ask a member of the core: a1") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
