package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/security/workload"
)

// An agent serves the Workload API in its data directory when that is not the host's own. A process without an entry is
// denied, and the socket goes when the agent does.
func TestAgentServesTheWorkloadAPI(t *testing.T) {
	var path string
	t.Run("while it runs", func(t *testing.T) {
		cfg := single(t)
		start(t, cfg, 0)
		path = filepath.Join(cfg.DataDir, workload.SocketName)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o666 {
			t.Fatalf("got %v, %v", info, err)
		}
		_, err = workloadapi.FetchX509SVID(t.Context(), workloadapi.WithAddr("unix://"+path))
		verifyByOpenSSL(t, cfg.DataDir)
		if status.Code(errors.Unwrap(err)) != codes.PermissionDenied && status.Code(err) != codes.PermissionDenied {
			t.Errorf("a process without an entry: got %v", err)
		}
	})
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the agent: %v", err)
	}
}

// Two clusters know each other's roots by their bundle endpoints, and SPIFFE's own client takes either's bundle.
func TestTwoClustersFederate(t *testing.T) {
	one := single(t)
	one.Identity.BundleEndpoint = freeAddr(t)
	first := start(t, one, 0)
	td := spiffeid.RequireTrustDomainFromString(first.agent.ids.TrustDomain)
	bundles, _, err := first.agent.workloadAPI.own.Bundles()
	if err != nil {
		t.Fatal(err)
	}
	endpoint := first.agent.source.ID()
	within(t, "SPIFFE's client fetches the bundle", func(ctx context.Context) error {
		got, err := federation.FetchBundle(ctx, td, "https://"+one.Identity.BundleEndpoint+"/", federation.WithSPIFFEAuth(bundles.Own, endpoint))
		if err != nil {
			return err
		}
		if bundles, _, err = first.agent.workloadAPI.own.Bundles(); err == nil && (!got.Equal(bundles.Own) || len(got.JWTAuthorities()) == 0) {
			err = fmt.Errorf("got %v, want a key for tokens too", got)
		}
		return err
	})
	text, err := bundles.Own.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	initial := filepath.Join(t.TempDir(), "bundle.json")
	if err := os.WriteFile(initial, text, 0o600); err != nil {
		t.Fatal(err)
	}
	two := singleOf(t, "other.example")
	two.Identity.FederateWith = []string{fmt.Sprintf("%s https_spiffe https://%s/ %s %s", td.Name(), one.Identity.BundleEndpoint, endpoint, initial)}
	second := start(t, two, 0)
	within(t, "the other cluster's bundle is fetched and kept", func(context.Context) error {
		known, _, err := second.agent.workloadAPI.source.Bundles()
		if err != nil {
			return err
		}
		if b := known.Federated[td]; b == nil || !b.Equal(bundles.Own) {
			return fmt.Errorf("got %v", b)
		}
		kept, err := spiffebundle.Load(td, filepath.Join(two.DataDir, federatedDir, td.Name()+".json"))
		if err == nil && !kept.Equal(bundles.Own) {
			err = errors.New("another bundle is kept")
		}
		return err
	})
}

// What is wrong with the settings of identities is said before anything runs.
func TestIdentitySettings(t *testing.T) {
	for key, value := range map[string]string{
		"identity.workload_socket": "relative.sock", "identity.bundle_endpoint": "here", "identity.federate_with": "other.example",
	} {
		if _, err := config.Load("", config.Override{Key: key, Value: value}); err == nil {
			t.Errorf("%s = %q: no error", key, value)
		}
	}
	if _, err := config.Load("", config.Override{Key: "identity.workload_socket", Value: "off"}); err != nil {
		t.Error(err)
	}
}

// verifyByOpenSSL wants an agent's chain to satisfy who knows nothing of SPIFFE, strictly.
func verifyByOpenSSL(t *testing.T, dataDir string) {
	t.Helper()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Log("no openssl here: the chain was not verified by it")
		return
	}
	chain := filepath.Join(dataDir, "identity", "leaf.pem")
	for _, purpose := range []string{"sslserver", "sslclient"} {
		output, err := exec.Command(openssl, "verify", "-x509_strict", "-purpose", purpose, //nolint:gosec // found above
			"-CAfile", filepath.Join(dataDir, "identity", "bundle.pem"), "-untrusted", chain, chain).CombinedOutput()
		if err != nil {
			t.Errorf("openssl verify for %s: %v: %s", purpose, err, output)
		}
	}
}
