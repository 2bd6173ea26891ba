package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Admission lets hosts join that show a certificate by one of the authorities, by the name in it.
type Admission struct {
	Name        string    `json:"name"`
	Kind        string    `json:"kind"`        // x509 or ssh
	Authorities []string  `json:"authorities"` // SHA-256 of each
	Names       string    `json:"names"`
	Suffix      string    `json:"suffix"`
	Role        string    `json:"role"`
	Core        bool      `json:"core"`
	CreatedAt   time.Time `json:"created_at"`
	CreatedBy   string    `json:"created_by"`
}

// AdmissionSpec is an admission to write. Authorities is the text of a file: certificates in PEM, or public keys as in
// authorized_keys.
type AdmissionSpec struct {
	Name        string `json:"name"`
	Kind        string `json:"kind"`
	Authorities string `json:"authorities"`
	Names       string `json:"names"`
	Suffix      string `json:"suffix,omitempty"`
	Role        string `json:"role,omitempty"`
	Core        bool   `json:"core,omitempty"`
	Replace     bool   `json:"replace,omitempty"`
}

// Admissions returns all of them by name.
func (c *Client) Admissions(ctx context.Context) ([]Admission, error) {
	var out []Admission
	err := c.call(ctx, http.MethodGet, "/parley/v1/admissions", nil, nil, &out)
	return out, err
}

// SetAdmission writes one: a new one, or with Replace one that there is. The same call may be made again.
func (c *Client) SetAdmission(ctx context.Context, spec AdmissionSpec) (Admission, error) {
	var out Admission
	err := c.post(ctx, "/parley/v1/admission", spec, &out)
	return out, err
}

// RemoveAdmission ends one. Hosts that it admitted stay.
func (c *Client) RemoveAdmission(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/parley/v1/admission/"+url.PathEscape(name), nil, nil, nil)
}
