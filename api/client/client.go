package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	maxAnswerBytes = 64 << 20 // far above what an agent answers; another program may listen there
	dialTimeout    = 5 * time.Second
	idleTimeout    = 90 * time.Second
	maxIdle        = 1024 // kept connections: a load generator uses one a worker
)

// headerReadOnly asks the agent to refuse everything that could change something.
const headerReadOnly = "Parley-Read-Only"

// Client calls one agent. Make one with New.
type Client struct {
	addr     string // as given, for messages
	base     string // scheme and host of every request
	readOnly bool
	http     *http.Client
	rpc      *rpcLinks     // nil for a Client over HTTP
	seen     atomic.Uint64 // the highest log index of a receipt

	connections int
}

// Option changes how a Client connects, or what it may do.
type Option func(*Client, *http.Transport)

// WithTLS sets the certificates for an https or rpc address.
func WithTLS(config *tls.Config) Option {
	return func(_ *Client, t *http.Transport) { t.TLSClientConfig = config.Clone() }
}

// ReadOnly has the agent refuse every call of this Client that could change something, with the code denied. It is the
// agent that refuses, so it holds for what this package knows nothing of.
func ReadOnly() Option { return func(c *Client, _ *http.Transport) { c.readOnly = true } }

// New returns a Client for unix:///path, http://host:port, https://host:port or rpc://host:port. It does not connect.
// Proxies of the environment are not used.
func New(addr string, options ...Option) (*Client, error) {
	u, err := url.Parse(addr)
	if err != nil {
		return nil, badAddress(addr)
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	transport := &http.Transport{
		DialContext: dialer.DialContext, IdleConnTimeout: idleTimeout,
		MaxIdleConns: maxIdle, MaxIdleConnsPerHost: maxIdle, DisableCompression: true,
	}
	c := &Client{addr: addr, http: &http.Client{Transport: transport}}
	switch {
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		path := u.Path
		c.base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && strings.Trim(u.Path, "/") == "":
		c.base = u.Scheme + "://" + u.Host
	case u.Scheme == "rpc" && u.Port() != "" && strings.Trim(u.Path, "/") == "":
	default:
		return nil, badAddress(addr)
	}
	for _, option := range options {
		option(c, transport)
	}
	if u.Scheme == "rpc" {
		if c.rpc, err = newRPCLinks(u.Host, transport.TLSClientConfig, c.connections); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func badAddress(addr string) error {
	return fmt.Errorf("address %q is none of unix:///path, http://host:port, https://host:port, rpc://host:port", addr)
}

// Close drops the idle connections; those of rpc it ends, and with them what is under way. The Client can still be used.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	if c.rpc != nil {
		c.rpc.drop()
	}
}

// call sends one request and decodes a 200 answer into out, unless out is nil.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, body []byte, out any) error {
	return c.callAs(ctx, "", method, path, query, body, out)
}

// callAs is call with a request id, unless it is empty. It asks again when the agent had no room.
func (c *Client) callAs(ctx context.Context, id, method, path string, query url.Values, body []byte, out any) error {
	return whenThereIsRoom(ctx, func() error { return c.callOnce(ctx, id, method, path, query, body, out) })
}

func (c *Client) callOnce(ctx context.Context, id, method, path string, query url.Values, body []byte, out any) error {
	status, header, answer, err := c.exchange(ctx, id, method, path, query, body)
	switch {
	case err != nil:
		return err
	case status != http.StatusOK:
		return answered(status, answer).waitAsTold(header)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return c.unreadable(status, err)
	}
	return nil
}

func (c *Client) unreadable(status int, err error) *Error {
	return &Error{
		Code: CodeUnreadable, Status: status, exit: exitFailed, cause: err,
		Message: fmt.Sprintf("the answer of %s is not that of an agent", c.addr),
		Hint:    "check --addr: another program, or an agent of another version, may listen there",
	}
}

// exchange sends one request and returns the whole answer; the error is that there is none.
func (c *Client) exchange(ctx context.Context, id, method, path string, query url.Values, body []byte) (status int, header http.Header, answer []byte, err error) {
	if c.rpc != nil {
		status, answer, err = c.tunnel(ctx, id, method, path, query, body)
		return status, roomHeader(status), answer, err
	}
	response, err := c.send(ctx, id, method, path, query, body)
	if err != nil {
		return 0, nil, nil, c.unanswered(method != http.MethodGet, err)
	}
	defer func() { _ = response.Body.Close() }() // only read
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return 0, nil, nil, c.unanswered(method != http.MethodGet, err)
	}
	return response.StatusCode, response.Header, answer, nil
}

func (c *Client) send(ctx context.Context, id, method, path string, query url.Values, body []byte) (*http.Response, error) {
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var sent delivery
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, sent.trace()), method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if c.readOnly {
		request.Header.Set(headerReadOnly, "1")
	}
	if id != "" {
		request.Header.Set(headerRequestID, id)
	}
	response, err := c.http.Do(request)
	if err == nil {
		c.note(response.Header.Get(headerReceipt))
	}
	return response, sent.explain(err)
}

// post sends in as JSON.
func (c *Client) post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, nil, body, out)
}

// Status describes the agent.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var out Status
	err := c.call(ctx, http.MethodGet, "/parley/v1/status", nil, nil, &out)
	return out, err
}

// Members lists the agents of the cluster as this one sees them.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	var out []Member
	err := c.call(ctx, http.MethodGet, "/parley/v1/members", nil, nil, &out)
	return out, err
}

// Core describes the Raft core.
func (c *Client) Core(ctx context.Context) (CoreStatus, error) {
	var out CoreStatus
	err := c.call(ctx, http.MethodGet, "/parley/v1/core", nil, nil, &out)
	return out, err
}

// Health says what the agent can do at the moment.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var out Health
	err := c.call(ctx, http.MethodGet, "/parley/v1/health", nil, nil, &out)
	return out, err
}

// Live returns nil when the agent's process answers.
func (c *Client) Live(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/livez", nil, nil, nil)
}

// Ready says whether the agent takes requests; text lists its capabilities, one a line.
func (c *Client) Ready(ctx context.Context) (ready bool, text string, err error) {
	status, _, body, err := c.exchange(ctx, "", http.MethodGet, "/readyz", url.Values{"verbose": {""}}, nil)
	switch {
	case err != nil:
		return false, "", err
	case status == http.StatusOK, status == http.StatusServiceUnavailable:
		return status == http.StatusOK, string(body), nil
	}
	return false, "", answered(status, body)
}

// CreateToken makes a join token.
func (c *Client) CreateToken(ctx context.Context, spec TokenSpec) (TokenAnswer, error) {
	var out TokenAnswer
	err := c.post(ctx, "/parley/v1/token", spec, &out)
	return out, err
}

// Tokens lists the join tokens without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]TokenInfo, error) {
	var out []TokenInfo
	err := c.call(ctx, http.MethodGet, "/parley/v1/tokens", nil, nil, &out)
	return out, err
}

// RevokeToken ends a join token.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/parley/v1/token/"+url.PathEscape(id), nil, nil, nil)
}

// AllowCore gives a node the core grant, or takes it away.
func (c *Client) AllowCore(ctx context.Context, node string, allow bool) error {
	return c.post(ctx, "/parley/v1/core/allow", map[string]any{"node": node, "allow": allow}, nil)
}

// SetCoreSize sets how many voters the core should have.
func (c *Client) SetCoreSize(ctx context.Context, size int) error {
	return c.post(ctx, "/parley/v1/core/size", map[string]any{"size": size}, nil)
}

// HoldCore begins or prolongs the maintenance of a node, or ends it with 0, and returns when it ends by itself.
func (c *Client) HoldCore(ctx context.Context, node string, period time.Duration) (until time.Time, err error) {
	body := map[string]any{"node": node, "release": period == 0}
	if period != 0 {
		body["for"] = period.String()
	}
	var out struct {
		Until time.Time `json:"until"`
	}
	err = c.post(ctx, "/parley/v1/core/hold", body, &out)
	return out.Until, err
}

// LookLeave says what would become of the core if the agent left the cluster; a *Error of the code guarded that it may not.
func (c *Client) LookLeave(ctx context.Context) (Leave, error) {
	var out Leave
	err := c.call(ctx, http.MethodGet, "/parley/v1/leave", nil, nil, &out)
	return out, err
}

// Leave has the agent leave the cluster for good and stop. A *Error of the code timeout says that the core has not let it
// go yet: call it again soon, or the agent stays.
func (c *Client) Leave(ctx context.Context) (Leave, error) {
	var out Leave
	err := c.post(ctx, "/parley/v1/leave", nil, &out)
	return out, err
}

// SetAgentRole changes what an agent may do for its callers.
func (c *Client) SetAgentRole(ctx context.Context, node, role string) error {
	return c.post(ctx, "/parley/v1/agent/role", map[string]any{"node": node, "role": role}, nil)
}

// TrustAgent takes back a host that was seen twice: whichever copy of it asks first, within an hour.
func (c *Client) TrustAgent(ctx context.Context, node string) error {
	return c.post(ctx, "/parley/v1/agent/trust", map[string]any{"node": node}, nil)
}

func uintParam(query url.Values, name string, value uint64) {
	query.Set(name, strconv.FormatUint(value, 10))
}
