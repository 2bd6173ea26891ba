package command

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
)

// addrVariable names the agent to ask when --addr does not.
const addrVariable = "PARLEY_ADDR"

// httpPort is where an agent serves http unless configured otherwise.
const httpPort = "8500"

// connect makes a client for the agent that the flags and the environment mean. Nothing is dialled yet.
func (a *app) connect(cmd *cobra.Command) (*client.Client, error) {
	addr, err := a.address(cmd)
	if err != nil {
		return nil, err
	}
	var options []client.Option
	var own *client.Identity
	if strings.HasPrefix(addr, "https://") || strings.HasPrefix(addr, "rpc://") {
		config, id, err := a.clientTLS(addr)
		if err != nil {
			return nil, err
		}
		own = id
		options = append(options, client.WithTLS(config))
	}
	if a.readOnly {
		options = append(options, client.ReadOnly())
	}
	c, err := client.New(addr, options...)
	if err != nil {
		return nil, usageError("write unix:///path/admin.sock, http://127.0.0.1:8500, https://host:8501 or rpc://host:8310", "%w", err)
	}
	if own != nil && !a.readOnly {
		return c, renewInPassing(cmd.Context(), c, own)
	}
	return c, nil
}

// clientTLS is who this is over https and rpc: the identity that was named, which is returned too, else this host's agent.
func (a *app) clientTLS(addr string) (*tls.Config, *client.Identity, error) {
	if dir := a.identityDir(); dir != "" {
		id, err := a.ownIdentity(dir)
		if err != nil {
			return nil, nil, err
		}
		return id.TLS(), id, nil
	}
	home, err := a.home()
	if err != nil {
		return nil, nil, err
	}
	protocol := "http/1.1"
	if strings.HasPrefix(addr, "rpc://") {
		protocol = client.RPCProtocol
	}
	config, err := agentTLS(home, protocol)
	if err != nil {
		return nil, nil, &failure{code: exitDenied, err: fmt.Errorf("%s asks for a client certificate: %w", addr, err),
			hint: "name an identity with --identity (parley operator add), or use this host's agent's: run this as its user or root, with its --data-dir"}
	}
	return config, nil, nil
}

// address goes by what was said most directly: --addr, --data-dir, PARLEY_ADDR, the default data directory.
func (a *app) address(cmd *cobra.Command) (string, error) {
	switch {
	case a.addr != "":
		return fullAddress(a.addr), nil
	case cmd.Flags().Changed("data-dir"):
		return adminSocket(a.dataDir), nil
	case a.getenv(addrVariable) != "":
		return fullAddress(a.getenv(addrVariable)), nil
	}
	home, err := a.home()
	return adminSocket(home), err
}

// home is the data directory of the agent on this host.
func (a *app) home() (string, error) {
	if a.dataDir != "" {
		return a.dataDir, nil
	}
	if dir := config.DefaultDataDir(); dir != "" {
		return dir, nil
	}
	return "", usageError("say where the agent is with --data-dir or --addr",
		"there is no default data directory: neither HOME nor XDG_STATE_HOME is an absolute path")
}

func adminSocket(dataDir string) string {
	if abs, err := filepath.Abs(dataDir); err == nil {
		dataDir = abs
	}
	return "unix://" + filepath.Join(dataDir, "admin.sock")
}

// fullAddress also takes a path and a bare host:port, as lab.json and curl have them. Without a port http means an
// agent's usual one, since nobody serves an agent on 80.
func fullAddress(addr string) string {
	if strings.HasPrefix(addr, "/") {
		return "unix://" + addr
	}
	host := addr
	if strings.Contains(addr, "://") {
		var plain bool
		if host, plain = strings.CutPrefix(addr, "http://"); !plain {
			return addr
		}
	}
	host = strings.TrimSuffix(host, "/")
	bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if _, err := netip.ParseAddr(bare); err == nil || host != "" && !strings.Contains(host, ":") {
		host = net.JoinHostPort(bare, httpPort)
	}
	return "http://" + host
}

// explainClient gives what api/client returns its exit code and hint; nil means that err is not from it.
func explainClient(err error) *failure {
	var answered *client.Error
	switch {
	case !errors.As(err, &answered):
		return nil
	case answered.Code == client.CodeNoAgent && errors.Is(err, fs.ErrPermission):
		return &failure{code: exitDenied, err: err,
			hint: "the admin socket is for root and the agent's user; others ask --addr http://127.0.0.1:8500"}
	}
	return &failure{code: answered.ExitCode(), err: err, hint: noAgentHint(answered, os.Geteuid())}
}

// noAgentHint adds what a user other than root may not know: the agent of a service has its socket elsewhere than they
// look, and where they may not.
func noAgentHint(e *client.Error, uid int) string {
	if e.Code != client.CodeNoAgent || uid == 0 || !strings.Contains(e.Message, "unix://") {
		return e.Hint
	}
	return e.Hint + " (if it runs as a service: sudo parley ..., or --addr http://127.0.0.1:8500)"
}

// shellQuote writes an argument as a shell takes it.
func shellQuote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"\\$`*?[]{}()<>|&;#~!") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
