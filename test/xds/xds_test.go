package xds

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/tls/certprovider"
	"google.golang.org/grpc/credentials/tls/certprovider/pemfile"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/xds"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// bundleMaps is what gRPC reads when the process starts: that it is to take SPIFFE bundle maps.
const bundleMaps = "GRPC_EXPERIMENTAL_XDS_MTLS_SPIFFE"

func TestMain(m *testing.M) {
	if os.Getenv(bundleMaps) != "true" {
		if err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), bundleMaps+"=true")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// refresh is how often gRPC looks at the files.
const refresh = 100 * time.Millisecond

// TestFileWatcher: gRPC's xDS credentials call a server by the files that `parley identity fetch --write --watch` keeps. Each call
// is a new connection with mutual TLS, checked by bundles.json. Certificates of ten seconds are renewed and the root is replaced
// meanwhile, and no call fails. The control: a service whose server should have another identity is not called.
func TestFileWatcher(t *testing.T) {
	w := newWorld(t)
	server := startServer(t, w.files("web"))
	td := w.trustDomain
	address := startControl(t, &control{port: uint32(server.port), identity: map[string]string{
		"web": "spiffe://" + td + "/svc/web", "wrong": "spiffe://" + td + "/svc/db",
	}})
	watched := w.files("db")
	builder, err := xds.NewXDSResolverWithConfigForTesting([]byte(fmt.Sprintf(`{
		"xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
		"node": {"id": "test"},
		"certificate_providers": {"files": {"plugin_name": "file_watcher", "config": {
			"certificate_file": %q, "private_key_file": %q, "spiffe_trust_bundle_map_file": %q, "refresh_interval": "0.1s"}}}
	}`, address, filepath.Join(watched, "svid.pem"), filepath.Join(watched, "key.pem"), filepath.Join(watched, "bundles.json"))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, builder, "wrong"); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "do not match any of the accepted SANs") {
		t.Fatalf("control: a server with another identity was called: %v", err)
	}
	rotated := false
	own, theirs, signers := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for end := time.Now().Add(90 * time.Second); len(own) < 4 || len(theirs) < 4 || len(signers) < 2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d certificates of the server, %d of the client, %d roots that signed", len(theirs), len(own), len(signers))
		}
		leaf, err := call(t, builder, "web")
		if err != nil {
			t.Fatalf("after %d certificates of the server, %d of the client, %d roots that signed: %v", len(theirs), len(own), len(signers), err)
		}
		theirs[leaf.SerialNumber.String()] = true
		chain := server.caller()
		own[chain[0].SerialNumber.String()] = true
		signers[signer(t, chain, filepath.Join(watched, "bundle.pem"))] = true
		if len(own) == 2 && !rotated {
			rotated = true
			w.parley("ca", "rotate", "--yes")
		}
	}
	t.Logf("%d certificates of the server, %d of the client, %d roots that signed", len(theirs), len(own), len(signers))
}

// signer is the root that a chain leads to.
func signer(t *testing.T, chain []*x509.Certificate, bundle string) string {
	t.Helper()
	text, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if chain[len(chain)-1].CheckSignatureFrom(root) == nil {
			return root.SerialNumber.String()
		}
	}
	t.Fatal("no root of the bundle signed the chain")
	return ""
}

// world is an agent, and two identities that are kept in files.
type world struct {
	t           *testing.T
	agent       *lab.Agent
	program     string
	trustDomain string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, program: filepath.Join(t.TempDir(), "parley")}
	build := exec.Command("go", "build", "-o", w.program, "./cmd/agent")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := lab.Start(ctx, lab.Options{Binary: w.program, Agents: 1})
	if err != nil {
		t.Fatal(err)
	}
	w.agent = l.Agents[0]
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.agent.LogTail(20))
		}
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	})
	c, err := client.New(w.agent.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.trustDomain = s.TrustDomain
	for _, name := range []string{"web", "db"} {
		if _, err := c.SetEntry(ctx, client.EntrySpec{Name: name, Selectors: []string{"uid:" + strconv.Itoa(os.Geteuid())}, TTLSeconds: 10}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) command(args ...string) *exec.Cmd {
	return exec.Command(w.program, append(args, "--data-dir", filepath.Dir(w.agent.Admin))...) //nolint:gosec // the program under test
}

func (w *world) parley(args ...string) {
	w.t.Helper()
	if out, err := w.command(args...).CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// files has a process of its own keep an identity in files until the test ends, and returns the directory once they are there.
func (w *world) files(name string) string {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "identity")
	keep := w.command("identity", "fetch", "x509", "--id", "spiffe://"+w.trustDomain+"/svc/"+name, "--write", dir, "--watch", "-o", "json")
	var said bytes.Buffer
	keep.Stdout, keep.Stderr = &said, &said
	if err := keep.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = keep.Process.Kill()
		_ = keep.Wait()
		if w.t.Failed() {
			w.t.Logf("kept for %s:\n%s", name, said.String())
		}
	})
	for range 200 {
		if _, err := os.Stat(filepath.Join(dir, "svid.pem")); err == nil { // the last one to be written
			return dir
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Fatalf("no files of %s", name)
	return ""
}

// testServer serves gRPC's health service by mutual TLS, with certificates and roots of gRPC's own file watcher.
type testServer struct {
	port int
	mu   sync.Mutex
	last []*x509.Certificate // of the last caller
}

func startServer(t *testing.T, dir string) *testServer {
	t.Helper()
	provider, err := pemfile.NewProvider(pemfile.Options{
		CertFile: filepath.Join(dir, "svid.pem"), KeyFile: filepath.Join(dir, "key.pem"), RootFile: filepath.Join(dir, "bundle.pem"), RefreshDuration: refresh,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(provider.Close)
	s := &testServer{}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(s.config(provider))))
	healthpb.RegisterHealthServer(server, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	return s
}

func (s *testServer) config(provider certprovider.Provider) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		material, err := provider.KeyMaterial(context.Background())
		if err != nil {
			return nil, err
		}
		return &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: material.Certs,
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: material.Roots,
			VerifyConnection: func(cs tls.ConnectionState) error {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.last = cs.PeerCertificates
				return nil
			},
		}, nil
	}}
}

func (s *testServer) caller() []*x509.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// call asks a service over a new connection, and returns the certificate of who answered.
func call(t *testing.T, builder resolver.Builder, service string) (*x509.Certificate, error) {
	t.Helper()
	creds, err := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///"+service, grpc.WithTransportCredentials(creds), grpc.WithResolvers(builder))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // it was asked
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var from peer.Peer
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Peer(&from)); err != nil {
		return nil, err
	}
	info, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, errors.New("the connection is not TLS")
	}
	return info.State.PeerCertificates[0], nil
}
