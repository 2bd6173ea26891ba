package api

import (
	"net/http"
	"strings"

	"github.com/parley-mesh/parley/ops/runbook"
	"github.com/parley-mesh/parley/security/policy"
)

// runbookRoutes serve what is embedded in the program: they need no quorum, no DNS, no TLS and no disk.
func runbookRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/runbooks/", Action: policy.Runbooks, Own: true, Serve: serveRunbookIndex},
		{Method: http.MethodGet, Path: "/runbooks/*", Action: policy.Runbooks, Own: true, Serve: serveRunbookPage},
		{Method: http.MethodGet, Path: "/parley/v1/runbooks", Action: policy.Runbooks, Own: true, Serve: serveRunbooks},
		{Method: http.MethodGet, Path: "/parley/v1/runbooks/*", Action: policy.Runbooks, Own: true, Serve: serveRunbook},
	}
}

func serveRunbooks(x *Exchange) error {
	library, err := runbook.Ours()
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, library.List())
}

func serveRunbook(x *Exchange) error {
	book, err := findRunbook(x.Rest)
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, book.Whole())
}

func serveRunbookIndex(x *Exchange) error {
	library, err := runbook.Ours()
	if err != nil {
		return err
	}
	page, err := library.Index()
	if err != nil {
		return err
	}
	return writePage(x, page)
}

// serveRunbookPage serves /runbooks/ID as a page and /runbooks/ID.md as the file.
func serveRunbookPage(x *Exchange) error {
	id, source := strings.CutSuffix(x.Rest, ".md")
	book, err := findRunbook(id)
	if err != nil {
		return err
	}
	if source {
		return x.Write(http.StatusOK, "text/markdown; charset=utf-8", book.Source)
	}
	page, err := book.Page()
	if err != nil {
		return err
	}
	return writePage(x, page)
}

func findRunbook(id string) (*runbook.Runbook, error) {
	library, err := runbook.Ours()
	if err != nil {
		return nil, err
	}
	book, ok := library.Get(id)
	if !ok {
		return nil, Errorf(CodeNotFound, "there is no runbook %q", id).
			WithHint("these are the runbooks: %s", strings.Join(library.IDs(), ", "))
	}
	return book, nil
}

func writePage(x *Exchange, page []byte) error {
	x.W.Header().Set("Content-Security-Policy", runbook.ContentSecurityPolicy)
	x.W.Header().Set("Referrer-Policy", "no-referrer")
	return x.Write(http.StatusOK, "text/html; charset=utf-8", page)
}
