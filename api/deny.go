package api

import (
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// serialDeniedFor is how long a certificate is denied that was given no other end: longer than any lasts that this cluster
// signs, with room for clocks.
const serialDeniedFor = security.MaxLeafTTL + time.Hour

// kindHost is beside the kinds of state.Deny: a host that was evicted.
const kindHost = "host"

// DenyInfo is one of GET /parley/v1/denies. Of a host the subject is its node's name, and it counts for good.
type DenyInfo struct {
	Kind    string    `json:"kind"` // id, serial or host
	Subject string    `json:"subject"`
	Until   time.Time `json:"until,omitzero"` // zero: for good
	At      time.Time `json:"at"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
}

func denyInfo(d state.Deny) DenyInfo {
	out := DenyInfo{Kind: string(d.Kind), Subject: d.Subject, At: d.At.Wall().UTC(), By: d.By, Reason: d.Reason}
	if d.Until != 0 {
		out.Until = time.Unix(int64(d.Until), 0).UTC() //nolint:gosec // it was checked
	}
	return out
}

func denyRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/parley/v1/denies", Action: policy.DenyRead, Takes: []string{"stale"}, Serve: serveDenies},
		{Method: http.MethodPost, Path: "/parley/v1/deny", Action: policy.DenyWrite, Once: true, Serve: serveDenySet},
		{Method: http.MethodDelete, Path: "/parley/v1/deny/*", Action: policy.DenyWrite, Once: true, Serve: serveDenyRemove},
	}
}

// serveDenies lists what is denied now: identities and certificates, then hosts.
func serveDenies(x *Exchange) error {
	v, err := x.operators()
	if err != nil {
		return err
	}
	now := uint64(max(v.Stamp().Wall().Unix(), 0))
	list := []DenyInfo{}
	for _, d := range v.Denies() {
		if d.Counts(now) {
			list = append(list, denyInfo(d))
		}
	}
	for _, d := range v.Denials() {
		list = append(list, DenyInfo{Kind: kindHost, Subject: d.Node, At: d.At.Wall().UTC(), By: d.By, Reason: d.Reason})
	}
	return x.JSON(http.StatusOK, list)
}

// denyBody is POST /parley/v1/deny. What is a SPIFFE ID, a path in this trust domain, or the serial number of a certificate in hex.
// Without for_s an identity is denied for good, and a certificate for as long as one can last.
type denyBody struct {
	What   string `json:"what"`
	For    uint64 `json:"for_s"`
	Reason string `json:"reason"`
	DryRun bool   `json:"dry_run"` // only say what would be denied, or why it is refused
}

// parseDenied says what is meant.
func (s *Service) parseDenied(what string) (state.DenyKind, string, error) {
	kind, subject := state.DenyID, what
	switch {
	case strings.HasPrefix(what, "/"):
		subject = s.local.TrustDomain.IDString() + what
	case !strings.HasPrefix(what, "spiffe://"):
		kind = state.DenySerial
		serial, ok := canonicalSerial(what)
		if !ok {
			return kind, "", Errorf(CodeInvalid, "%.120q is no SPIFFE ID and no serial number", what).
				WithHint("give a path like /svc/web, a whole SPIFFE ID, or the serial number in hex; a host is shut out with: parley evict NODE")
		}
		subject = serial
	}
	if err := state.CheckDenied(kind, subject); err != nil {
		return kind, "", Errorf(CodeInvalid, "%v", err)
	}
	if own := s.local.TrustDomain; kind == state.DenyID && !strings.HasPrefix(subject, own.IDString()+"/") {
		return kind, "", Errorf(CodeInvalid, "%s is of another trust domain: this cluster's is %s", subject, own.Name())
	}
	return kind, subject, nil
}

// canonicalSerial makes one form of those in which serial numbers are printed in hex: in upper case, with 0x before them, with colons between
// bytes, with zeros before them or without the one that makes the first byte whole.
func canonicalSerial(what string) (serial string, ok bool) {
	digits := strings.TrimPrefix(strings.ToLower(what), "0x")
	for i, group := range strings.Split(digits, ":") {
		if n := len(group); strings.Contains(digits, ":") && n != 2 && (i > 0 || n != 1) {
			return "", false
		}
	}
	digits = strings.TrimLeft(strings.ReplaceAll(digits, ":", ""), "0")
	if len(digits)%2 != 0 {
		digits = "0" + digits
	}
	_, err := hex.DecodeString(digits)
	return digits, err == nil
}

// checkSerial refuses what would be denied in vain: a number that may be meant in decimal, and the certificate of an authority, by which nobody
// identifies itself.
func (s *Service) checkSerial(what, serial string) error {
	if len(what) >= state.MinSerialDigits && strings.Trim(what, "0123456789") == "" {
		return Errorf(CodeInvalid, "the serial %.120s may be a decimal number", what).WithHint("write it in hex, and 0x before it where that has no letters")
	}
	link := ""
	if s.local.Identities.Show != nil {
		for _, c := range s.local.Identities.Show().Certificates {
			if known, ok := canonicalSerial(c.Serial); ok && known == serial && c.Link != "leaf" {
				link = c.Link
			}
		}
	}
	for _, der := range s.local.Hub.View().Bundle().Roots {
		if root, err := x509.ParseCertificate(der); err == nil && root.SerialNumber != nil {
			if known, _ := canonicalSerial(root.SerialNumber.Text(16)); known == serial {
				link = "root"
			}
		}
	}
	if link == "" {
		return nil
	}
	refused := Errorf(CodeInvalid, "the serial %s is of the certificate of an authority (%s): to deny it would do nothing to what it has signed", serial, link)
	if s.local.Certifies != nil && s.local.Certifies() != nil {
		return refused.WithHint("another authority certifies the agents of this cluster: replace its certificate there")
	}
	return refused.WithHint("replace what it signed: parley ca rotate --compromised; a member of the core whose issuer's key is in other hands: parley evict NODE")
}

// denyPreview is what a denial would be, if it were made now.
func denyPreview(kind state.DenyKind, subject string, body denyBody, now time.Time) DenyInfo {
	out := DenyInfo{Kind: string(kind), Subject: subject, At: now, Reason: body.Reason}
	if body.For != 0 {
		out.Until = now.Add(time.Duration(body.For) * time.Second).Truncate(time.Second) //nolint:gosec // what is too long to be one is refused when it is made
	}
	return out
}

func serveDenySet(x *Exchange) error {
	var body denyBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	kind, subject, err := x.service.parseDenied(body.What)
	if err != nil {
		return err
	}
	if kind == state.DenySerial {
		if err := x.service.checkSerial(body.What, subject); err != nil {
			return err
		}
		if body.For == 0 {
			body.For = uint64(serialDeniedFor / time.Second)
		}
	}
	if body.DryRun {
		return x.JSON(http.StatusOK, denyPreview(kind, subject, body, x.service.local.Hub.View().Stamp().Wall().UTC()))
	}
	done, err := x.Execute(state.DenySet{Kind: kind, Subject: subject, Seconds: body.For, Reason: body.Reason})
	if err != nil {
		return err
	}
	d, err := state.DecodeDeny(done.Result.Body)
	if err != nil {
		return Errorf(CodeInternal, "denial of %s: %v", subject, err)
	}
	x.applied(done)
	return x.JSON(http.StatusOK, denyInfo(d))
}

// serveDenyRemove takes KIND/SUBJECT; of a SPIFFE ID the path.
func serveDenyRemove(x *Exchange) error {
	kind, what, _ := strings.Cut(x.Rest, "/")
	if kind == string(state.DenyID) {
		what = "/" + what
	}
	parsed, subject, err := x.service.parseDenied(what)
	if err != nil {
		return err
	}
	if kind != string(parsed) {
		return Errorf(CodeInvalid, "%.120q is not id/PATH and not serial/HEX", x.Rest)
	}
	done, err := x.Execute(state.DenyRemove{Kind: parsed, Subject: subject})
	if err != nil {
		if refused := AsError(err); refused.Code == CodeNotFound {
			err = refused.WithHint("list what is: parley deny list")
		}
		return err
	}
	x.applied(done)
	return x.JSON(http.StatusOK, map[string]any{"kind": parsed, "subject": subject, "removed": true})
}

// deniedOperator refuses to certify an operator whose identity is denied.
func deniedOperator(v *state.View, id string, now time.Time) *Error {
	d, ok := v.Deny(state.MarkOfID(id))
	if !ok || !d.Counts(uint64(max(now.Unix(), 0))) {
		return nil
	}
	return Errorf(CodeDenied, "%s is denied, by %s", id, d.By).WithHint("have an operator let it in again: parley deny remove %s", id)
}
