package main

import (
	"strings"
	"testing"

	"github.com/parley-mesh/parley/test/bench/report"
)

func TestChoose(t *testing.T) {
	if got, err := choose(""); err != nil || len(got) != len(stages) {
		t.Errorf("all: got %d stages, %v", len(got), err)
	}
	got, err := choose("get,put")
	if err != nil || len(got) != 2 || got[0].name != "get" {
		t.Errorf("two: got %v, %v", got, err)
	}
	if _, err := choose("get,gte"); err == nil || !strings.Contains(err.Error(), "there are put, get") {
		t.Errorf("a mistake: got %v", err)
	}
}

// Each goal names cells that some stage measures, else it would read "not measured" for ever.
func TestGoalsAreMeasured(t *testing.T) {
	sides := map[string]bool{}
	for _, s := range stages {
		for _, at := range s.sides {
			sides[at.name] = true
			for _, name := range at.paths {
				sides[name] = true
			}
		}
	}
	clients, err := numbers(allClients)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range report.Goals {
		known := g.Clients == 0
		for _, n := range clients {
			known = known || n == g.Clients
		}
		if !sides[g.Side] || !known || g.Base != "" && !sides[g.Base] {
			t.Errorf("no stage measures %+v", g)
		}
	}
}
