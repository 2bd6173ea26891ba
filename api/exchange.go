package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
)

const (
	maxBodyBytes = 1 << 20
	bodyTimeout  = 30 * time.Second // for the whole request body
)

// The headers that every response or every key/value read carries.
const (
	headerReceipt   = "Parley-Receipt"
	headerRequestID = "Parley-Request-Id"
	headerRevision  = "Parley-Revision"
)

// The values of headers that are always the same; nobody writes to them.
var jsonType, noSniff = []string{"application/json"}, []string{"nosniff"}

// Exchange is one request and its response. It belongs to the goroutine that serves it.
type Exchange struct {
	W         http.ResponseWriter
	R         *http.Request
	Caller    Caller
	RequestID string
	Rest      string // of an open path

	service  *Service
	once     RequestID // that the caller sent
	query    url.Values
	queryErr error // why the query string could not be parsed
	status   int   // of the response, for whoever counts
	begun    bool  // something of the response may have left
}

// Context ends when the caller goes away.
func (x *Exchange) Context() context.Context { return x.R.Context() }

// Execute carries out the one command that the request asks for, under the caller's request id if it sent one.
func (x *Exchange) Execute(cmd state.Command) (Applied, error) {
	done, err := x.service.ExecuteOnce(x.Context(), x.Caller, x.once, cmd)
	if err != nil && done.Index > 0 {
		x.applied(done) // it was refused there
	}
	return done, err
}

// Service is what serves the request.
func (x *Exchange) Service() *Service { return x.service }

// Query returns the parameters, parsed once. An endpoint is not called when some of them could not be parsed.
func (x *Exchange) Query() url.Values {
	if x.R.URL.RawQuery == "" {
		return nil
	}
	if x.query == nil {
		x.query, x.queryErr = url.ParseQuery(x.R.URL.RawQuery)
	}
	return x.query
}

// Flag reports a parameter that counts by presence; =false, =0 and =no switch it off.
func (x *Exchange) Flag(name string) bool {
	values, ok := x.Query()[name]
	if !ok {
		return false
	}
	switch values[0] {
	case "false", "0", "no":
		return false
	}
	return true
}

// Uint parses a number parameter; set is false when it is absent.
func (x *Exchange) Uint(name string) (value uint64, set bool, err error) {
	values, ok := x.Query()[name]
	if !ok {
		return 0, false, nil
	}
	value, parseErr := strconv.ParseUint(values[0], 10, 64)
	if parseErr != nil {
		return 0, false, Errorf(CodeInvalid, "%s=%q is not a whole number", name, values[0])
	}
	return value, true, nil
}

// Duration parses a parameter such as 30s or 1ms; absent is 0.
func (x *Exchange) Duration(name string) (time.Duration, error) {
	values, ok := x.Query()[name]
	if !ok || values[0] == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(values[0])
	if err != nil || d < 0 {
		return 0, Errorf(CodeInvalid, "%s=%q is not a duration", name, values[0]).WithHint("use a number and a unit, such as 500ms or 30s")
	}
	return d, nil
}

// Body reads the request body, at most limit bytes (limit <= 1 MiB); what names it in the error.
func (x *Exchange) Body(what string, limit int64) ([]byte, error) {
	if x.R.ContentLength > limit {
		return nil, Errorf(CodeTooLarge, "the %s has %d bytes, the limit is %d", what, x.R.ContentLength, limit)
	}
	if x.R.ContentLength == 0 {
		return nil, nil
	}
	deadline := http.NewResponseController(x.W)
	_ = deadline.SetReadDeadline(time.Now().Add(bodyTimeout)) // unsupported outside a real connection
	defer func() { _ = deadline.SetReadDeadline(time.Time{}) }()
	body, err := readAll(http.MaxBytesReader(x.W, x.R.Body, limit), x.R.ContentLength)
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, Errorf(CodeTooLarge, "the %s is over the limit of %d bytes", what, limit)
	case err != nil && x.Context().Err() != nil:
		return nil, Errorf(CodeCanceled, "the caller went away")
	case err != nil:
		return nil, Errorf(CodeInvalid, "read the %s: %v", what, err)
	}
	return body, nil
}

// readAll is io.ReadAll with room for size bytes at once, when the size is known.
func readAll(r io.Reader, size int64) ([]byte, error) {
	if size < 0 {
		return io.ReadAll(r)
	}
	body := make([]byte, size)
	_, err := io.ReadFull(r, body)
	return body, err
}

// Decode reads a JSON object from the body into v, strictly: an unknown field is an error, and so is anything behind the
// object. Bytes that are not UTF-8 are one because the decoder would replace them, and make one key of two.
func (x *Exchange) Decode(v any) error {
	body, err := x.Body("body", maxBodyBytes)
	if err != nil {
		return err
	}
	if !utf8.Valid(body) {
		return Errorf(CodeInvalid, "the body is not UTF-8").WithHint("send bytes that are no text as value_base64")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return Errorf(CodeInvalid, "the body is not the JSON that this endpoint takes: %v", err)
	}
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) { // null decodes into everything
		return Errorf(CodeInvalid, "the body is not a JSON object")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Errorf(CodeInvalid, "the body goes on behind its JSON object")
	}
	return nil
}

// Receipt says which agent's state an answer came from and where in the log it was.
func (x *Exchange) Receipt(node string, term, index uint64, stamp clock.Stamp) {
	b := make([]byte, 0, 96)
	b = append(append(b, "node="...), node...)
	b = strconv.AppendUint(append(b, ";term="...), term, 10)
	b = strconv.AppendUint(append(b, ";index="...), index, 10)
	b = appendStamp(append(b, ";hlc="...), stamp)
	x.W.Header()[headerReceipt] = []string{string(b)}
}

// ReceiptHere is the receipt of an answer that this agent gives from what it knows.
func (x *Exchange) ReceiptHere() {
	v := x.service.local.Hub.View()
	x.Receipt(x.service.local.Node, v.Term(), v.Index(), v.Stamp())
}

// JSON writes v with status.
func (x *Exchange) JSON(status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	return x.Write(status, "application/json", append(body, '\n'))
}

// Write sends a whole body, with a receipt of this agent's own unless there is a better one. An error on the way to a caller that left is nobody's business.
func (x *Exchange) Write(status int, contentType string, body []byte) error {
	h := x.W.Header()
	if h[headerReceipt] == nil {
		x.ReceiptHere()
	}
	h["Content-Type"] = jsonType
	if contentType != jsonType[0] {
		h["Content-Type"] = []string{contentType}
	}
	h["X-Content-Type-Options"] = noSniff
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	x.Head(status)
	_, _ = x.W.Write(body)
	return nil
}

// Head begins a response; what follows is written to W.
func (x *Exchange) Head(status int) {
	x.status, x.begun = status, true
	x.W.WriteHeader(status)
}

// errorBody is the JSON of a native error. exit_code and retryable spare clients a copy of the table.
type errorBody struct {
	Error struct {
		Code      string  `json:"code"`
		Message   string  `json:"message"`
		Hint      string  `json:"hint"`
		Leader    *string `json:"leader"`
		RequestID string  `json:"request_id"`
		ExitCode  int     `json:"exit_code"`
		Retryable bool    `json:"retryable"`
	} `json:"error"`
}

func nativeBody(x *Exchange, e *Error) errorBody {
	var body errorBody
	body.Error.Code, body.Error.Message, body.Error.Hint = e.Code, e.Message, e.Hint
	body.Error.RequestID = x.RequestID
	body.Error.ExitCode, body.Error.Retryable = e.ExitCode(), e.Retryable()
	if e.Leader != "" {
		body.Error.Leader = &e.Leader
	}
	return body
}

// failNative writes the native error body.
func failNative(x *Exchange, e *Error) {
	_ = x.JSON(e.Status(), nativeBody(x, e)) // strings and numbers always encode
}

// Refuse answers a request that gets to no endpoint, as an endpoint would.
func Refuse(w http.ResponseWriter, e *Error) {
	body, _ := json.Marshal(nativeBody(&Exchange{RequestID: "none"}, e)) // strings and numbers always encode
	h := w.Header()
	h["Content-Type"], h["X-Content-Type-Options"] = jsonType, noSniff
	if e.Status() == http.StatusTooManyRequests {
		h[headerRetryAfter] = []string{strconv.Itoa(retryAfterSeconds())}
	}
	w.WriteHeader(e.Status())
	_, _ = w.Write(append(body, '\n'))
}
