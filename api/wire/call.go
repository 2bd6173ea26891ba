package wire

import (
	"encoding/binary"
	"time"
)

// What the second byte of an answer says.
const (
	isAnswer  = 0
	isFailure = 1
)

// Failure is why a request was not done, or that this is not known. Its fields are those of the error document of the
// HTTP API.
type Failure struct {
	Code, Message, Hint, Leader, RequestID string

	Place      Place // where in the log a command was refused; zero elsewhere
	Status     uint64
	ExitCode   uint64
	Retryable  bool
	RetryAfter time.Duration // how long to leave the agent alone; 0: nothing is known
}

// Append encodes.
func (f Failure) Append(b []byte) []byte {
	b = append(b, Version, isFailure)
	for _, text := range [...]string{f.Code, f.Message, f.Hint, f.Leader, f.RequestID} {
		b = AppendText(b, text[:min(len(text), maxText)])
	}
	b = f.Place.append(b)
	b = binary.AppendUvarint(b, f.Status)
	b = binary.AppendUvarint(b, f.ExitCode)
	b = AppendBool(b, f.Retryable)
	return appendDuration(b, f.RetryAfter)
}

const maxText = 16 << 10

// answer reads the head of an answer, and all of a failure.
func answer(body []byte) (Reader, *Failure, error) {
	r := NewReader(body)
	r.Version()
	switch r.Byte() {
	case isAnswer:
		return r, nil, nil
	case isFailure:
	default:
		return r, nil, errKind
	}
	f := &Failure{
		Code: r.Text(maxText), Message: r.Text(maxText), Hint: r.Text(maxText), Leader: r.Text(maxText), RequestID: r.Text(maxText),
		Place: r.place(), Status: r.Uint(), ExitCode: r.Uint(), Retryable: r.Bool(), RetryAfter: r.duration(),
	}
	if err := r.End("failure"); err != nil {
		return r, nil, err
	}
	return r, f, nil
}

// Call is a request to an endpoint of the HTTP API: Target is its path and query, escaped as in HTTP.
type Call struct {
	Method, Target, RequestID string

	ReadOnly bool // refuse what could change something
	Body     []byte
}

// Append encodes.
func (c Call) Append(b []byte) []byte {
	b = append(b, Version)
	b = AppendText(b, c.Method)
	b = AppendText(b, c.Target)
	b = AppendText(b, c.RequestID)
	b = AppendBool(b, c.ReadOnly)
	return AppendText(b, c.Body)
}

// ParseCall decodes.
func ParseCall(body []byte) (Call, error) {
	r := NewReader(body)
	r.Version()
	c := Call{Method: r.Text(maxName), Target: r.Text(maxKey), RequestID: r.Text(maxName), ReadOnly: r.Bool(), Body: r.Bytes(maxBytes)}
	return c, r.End("call")
}

// Reply answers Call: the status of HTTP, the receipt's header and the body.
type Reply struct {
	Status  uint64
	Receipt string
	Body    []byte
}

// Append encodes.
func (a Reply) Append(b []byte) []byte {
	b = append(b, Version, isAnswer)
	b = binary.AppendUvarint(b, a.Status)
	b = AppendText(b, a.Receipt)
	return AppendText(b, a.Body)
}

// ParseReply decodes an answer to Call, or the failure that came instead.
func ParseReply(body []byte) (a Reply, failed *Failure, err error) {
	r, failed, err := answer(body)
	if failed != nil || err != nil {
		return a, failed, err
	}
	a = Reply{Status: r.Uint(), Receipt: r.Text(maxText), Body: r.Bytes(maxBytes)}
	return a, nil, r.End("answer to a call")
}
