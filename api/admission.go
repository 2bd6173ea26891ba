package api

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// AdmissionInfo is one of GET /parley/v1/admissions: hosts that show a certificate by one of the authorities join by the name in
// it.
type AdmissionInfo struct {
	Name        string    `json:"name"`
	Kind        string    `json:"kind"`        // x509 or ssh
	Authorities []string  `json:"authorities"` // SHA-256 of each, of SSH as ssh-keygen -l prints it
	Names       string    `json:"names"`
	Suffix      string    `json:"suffix"`
	Role        string    `json:"role"`
	Core        bool      `json:"core"`
	CreatedAt   time.Time `json:"created_at"`
	CreatedBy   string    `json:"created_by"`
}

func admissionInfo(a state.Admission) AdmissionInfo {
	out := AdmissionInfo{
		Name: a.Name, Kind: string(a.Kind), Authorities: make([]string, len(a.Authorities)), Names: a.Names, Suffix: a.Suffix, Role: string(a.Role), Core: a.Core,
		CreatedAt: a.CreatedAt.Wall().UTC(), CreatedBy: a.CreatedBy,
	}
	for i, key := range a.Authorities {
		sum := sha256.Sum256(key)
		out.Authorities[i] = "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
	}
	return out
}

func admissionRoutes() []Route {
	stale := []string{"stale"}
	return []Route{
		{Method: http.MethodGet, Path: "/parley/v1/admissions", Action: policy.AdmissionRead, Takes: stale, Serve: serveAdmissions},
		{Method: http.MethodPost, Path: "/parley/v1/admission", Action: policy.AdmissionWrite, Once: true, Serve: serveAdmissionSet},
		{Method: http.MethodDelete, Path: "/parley/v1/admission/*", Action: policy.AdmissionWrite, Once: true, Serve: serveAdmissionDelete},
	}
}

func serveAdmissions(x *Exchange) error {
	v, err := x.operators()
	if err != nil {
		return err
	}
	list := []AdmissionInfo{}
	for _, a := range v.Admissions() {
		list = append(list, admissionInfo(a))
	}
	return x.JSON(http.StatusOK, list)
}

// admissionBody is POST /parley/v1/admission. Authorities is the text of a file: certificates in PEM, or public keys as in
// authorized_keys.
type admissionBody struct {
	Name        string `json:"name"`
	Kind        string `json:"kind"`
	Authorities string `json:"authorities"`
	Names       string `json:"names"`
	Suffix      string `json:"suffix"`
	Role        string `json:"role"`
	Core        bool   `json:"core"`
	Replace     bool   `json:"replace"`
}

func (b admissionBody) admission() (state.Admission, error) {
	a := state.Admission{Name: b.Name, Kind: state.AdmissionKind(b.Kind), Names: b.Names, Suffix: b.Suffix, Core: b.Core, Role: policy.Discovery}
	spec, err := tokenBody{Role: b.Role, Core: b.Core}.spec() // what a token may be for
	if err != nil {
		return a, err
	}
	a.Role = policy.Role(spec.Role)
	parse := security.ParseX509Authorities
	switch a.Kind {
	case state.AdmissionX509:
	case state.AdmissionSSH:
		parse = security.ParseSSHAuthorities
	default:
		return a, Errorf(CodeInvalid, "kind %.40q is not one of x509, ssh", b.Kind)
	}
	if a.Authorities, err = parse([]byte(b.Authorities), state.MaxAdmissionKeys); err != nil {
		return a, Errorf(CodeInvalid, "authorities: %v", err)
	}
	return a, nil
}

func serveAdmissionSet(x *Exchange) error {
	var body admissionBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	a, err := body.admission()
	if err != nil {
		return err
	}
	done, err := x.Execute(state.AdmissionSet{Admission: a, Replace: body.Replace})
	if err != nil {
		if refused := AsError(err); refused.Code == CodeExists {
			err = refused.WithHint("write it anew on purpose: parley admission add %s --replace", body.Name)
		}
		return err
	}
	x.applied(done)
	return x.JSON(http.StatusOK, admissionInfo(a))
}

func serveAdmissionDelete(x *Exchange) error {
	done, err := x.Execute(state.AdmissionDelete{Name: x.Rest})
	if err != nil {
		return err
	}
	x.applied(done)
	return x.JSON(http.StatusOK, map[string]any{"name": x.Rest, "removed": true})
}
