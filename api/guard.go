package api

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// checkOrigin refuses what a page in a browser on this host would send. Two checks, because each alone has a hole: a
// page of another site names itself in Origin or Sec-Fetch-Site, and a page whose own DNS name was rebound to
// 127.0.0.1 is "same origin" but arrives with that name in Host.
func checkOrigin(kind Listener, node string, r *http.Request) *Error {
	if kind == Socket || kind == RPC || overUnix(r) {
		return nil // no browser reaches a Unix socket, or speaks our RPC
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return Errorf(CodeForbiddenOrigin, "a request from a web page of another site (%s)", site)
	}
	if origin := r.Header.Get("Origin"); origin != "" && !sameHost(origin, r.Host) {
		return Errorf(CodeForbiddenOrigin, "the request comes from a page of another origin")
	}
	if kind == Loopback && !localHost(r.Host, node) {
		return Errorf(CodeForbiddenOrigin, "the Host header names neither a loopback address nor this agent")
	}
	return nil
}

// overUnix says whether the request came by a Unix socket, of which the http listener may be one too.
func overUnix(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}

// headerReadOnly marks a request of a caller that wants to change nothing, such as a diagnose step of a runbook.
const headerReadOnly = "Parley-Read-Only"

// checkReadOnly refuses what could change something for a caller that said it will not. Every route but GET counts, so
// that a new endpoint is refused until it is known to be harmless. Whatever the header says, it is meant.
func checkReadOnly(route *Route, r *http.Request) *Error {
	if r.Header[headerReadOnly] == nil || route.Method == http.MethodGet {
		return nil
	}
	return Errorf(CodeDenied, "%s %s could change something, and the caller asked to read only", route.Method, route.Path).
		WithHint("a diagnose or verify step must not change anything: make it a mitigate step, or send the request without %s", headerReadOnly)
}

// checkParameters refuses what would otherwise be left out without a word. A condition whose name was misspelled, whose
// value cannot be parsed (package net/url drops the pair), or of which there are two must not become none, or one of two.
func checkParameters(route *Route, x *Exchange) *Error {
	query := x.Query()
	if x.queryErr != nil {
		return Errorf(CodeInvalid, "the query string is malformed: %v", x.queryErr).
			WithHint("put & between parameters, and write %%, ; and & in a value as %%25, %%3B and %%26")
	}
	for name, values := range query {
		if !route.Lax && !slices.Contains(route.Takes, name) {
			return unknownParameter(route, name)
		}
		if len(values) > 1 && !slices.Contains(route.Repeats, name) {
			return Errorf(CodeInvalid, "parameter %.80q is there %d times", name, len(values)).WithHint("give it once")
		}
	}
	return nil
}

func unknownParameter(route *Route, name string) *Error {
	e := Errorf(CodeInvalid, "unknown parameter %.80q", name)
	if len(route.Takes) == 0 {
		return e.WithHint("this endpoint takes no parameters")
	}
	return e.WithHint("this endpoint takes: %s", strings.Join(route.Takes, ", "))
}

func sameHost(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}

// localHost accepts localhost, loopback addresses and the agent's own name, each with or without a port.
func localHost(host, node string) bool {
	name := host
	if bare, _, err := net.SplitHostPort(host); err == nil {
		name = bare
	}
	name = strings.Trim(name, "[]")
	if strings.EqualFold(name, "localhost") || strings.EqualFold(name, node) {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.Unmap().IsLoopback()
}
