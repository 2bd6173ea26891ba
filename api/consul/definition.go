package consul

import (
	"bytes"
	"cmp"
	"encoding/json"
	"time"
)

// definition says how a check is run. Nothing of it is interpreted here: who registers a check in the catalog runs it,
// and reads the definition back.
type definition struct {
	HTTP          string              `json:",omitempty"`
	Header        map[string][]string `json:",omitempty"`
	Method        string              `json:",omitempty"`
	Body          string              `json:",omitempty"`
	TLSServerName string              `json:",omitempty"`
	TLSSkipVerify bool                `json:",omitempty"`
	TCP           string              `json:",omitempty"`
	TCPUseTLS     bool                `json:",omitempty"`
	UDP           string              `json:",omitempty"`
	GRPC          string              `json:",omitempty"`
	GRPCUseTLS    bool                `json:",omitempty"`
	OSService     string              `json:",omitempty"`
	SessionName   string              `json:",omitempty"`

	Interval                       duration `json:",omitzero"`
	Timeout                        duration `json:",omitzero"`
	DeregisterCriticalServiceAfter duration `json:",omitzero"`

	// The same again; these win, and are answered under the names above, which all clients read.
	IntervalDuration                       duration `json:",omitzero"`
	TimeoutDuration                        duration `json:",omitzero"`
	DeregisterCriticalServiceAfterDuration duration `json:",omitzero"`
}

// kind is the type of check that the definition describes.
func (d definition) kind() string {
	switch {
	case d.HTTP != "":
		return "http"
	case d.TCP != "":
		return "tcp"
	case d.UDP != "":
		return "udp"
	case d.GRPC != "":
		return "grpc"
	case d.OSService != "":
		return "os_service"
	}
	return ""
}

// bytes is the definition as it is kept: nil for none.
func (d definition) bytes() []byte {
	d.Interval = cmp.Or(d.IntervalDuration, d.Interval)
	d.Timeout = cmp.Or(d.TimeoutDuration, d.Timeout)
	d.DeregisterCriticalServiceAfter = cmp.Or(d.DeregisterCriticalServiceAfterDuration, d.DeregisterCriticalServiceAfter)
	d.IntervalDuration, d.TimeoutDuration, d.DeregisterCriticalServiceAfterDuration = 0, 0, 0
	b, err := json.Marshal(d)
	if err != nil || bytes.Equal(b, emptyObject) { // texts, truths and durations always encode
		return nil
	}
	return b
}

var emptyObject = []byte("{}")

// duration is a text such as "10s", or a number of nanoseconds.
type duration time.Duration

// MarshalJSON writes the text.
func (d duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads either.
func (d *duration) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return json.Unmarshal(raw, (*int64)(d))
	}
	if text == "" {
		*d = 0
		return nil
	}
	parsed, err := time.ParseDuration(text)
	*d = duration(parsed)
	return err
}
