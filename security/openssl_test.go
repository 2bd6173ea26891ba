package security

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOpenSSLTakesEveryChain: who knows nothing of SPIFFE or Go verifies, strictly, every chain that is issued: those of agents
// and programs as servers and clients, of operators as clients alone, issuers and roots as authorities; and the same after the root was replaced, by
// the bundle that has both roots. The controls: without the intermediate, by another trust domain's root, and a leaf in the place
// of an authority.
func TestOpenSSLTakesEveryChain(t *testing.T) {
	openssl := needOpenSSL(t)
	if openssl == "" {
		return
	}
	w, stranger := newWorld(t, testTD), newWorld(t, testTD)
	for _, when := range []string{"first root", "next root"} {
		bundle := w.gen.Roots
		if when == "next root" {
			next, err := NewRoot(testTD, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if err := w.gen.Authority.Renew(next, time.Now()); err != nil {
				t.Fatal(err)
			}
			bundle = append(bundle, next.Cert.Raw)
		}
		_, req := workloadRequest(t, "a1", "web")
		program, err := w.gen.Authority.SignWorkload(req, "a1", webID, time.Hour, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		_, agent := w.leaf(w.gen.Host, "a1", time.Hour)
		chains := map[string][][]byte{"agent": agent, "program": program, "operator": w.operator("eve").Certificate}
		if when == "first root" {
			files := leafFiles(w.dir)
			if _, _, first, err := files.load(); err == nil {
				chains["agent, of init"] = [][]byte{first[0].Raw, first[1].Raw}
			} else {
				t.Fatal(err)
			}
		}
		for who, chain := range chains {
			for _, purpose := range []string{"sslserver", "sslclient"} {
				out, err := verifyBy(t, openssl, bundle, chain[1:], chain[:1], "-purpose", purpose)
				if fits := who != "operator" || purpose == "sslclient"; fits != (err == nil) {
					t.Errorf("%s, %s as %s: %v: %s", when, who, purpose, err, out)
				}
			}
			if out, err := verifyBy(t, openssl, bundle, nil, chain[:1]); err == nil {
				t.Errorf("control, %s without its issuer: %s", who, out)
			}
			if out, err := verifyBy(t, openssl, stranger.gen.Roots, chain[1:], chain[:1]); err == nil {
				t.Errorf("control, %s by a root of others: %s", who, out)
			}
		}
		for what, der := range map[string][]byte{"issuer": program[1], "root": bundle[len(bundle)-1]} {
			if out, err := verifyBy(t, openssl, bundle, nil, [][]byte{der}, "-purpose", "crlsign"); err != nil {
				t.Errorf("%s, the %s: %v: %s", when, what, err, out)
			}
		}
		if out, err := verifyBy(t, openssl, bundle, program[1:], program[:1], "-purpose", "crlsign"); err == nil {
			t.Errorf("control, a leaf as an authority: %s", out)
		}
	}
}

// needOpenSSL returns where openssl is, "" where it is not and may be missing.
func needOpenSSL(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal(err)
	default:
		t.Log("no openssl here: its verification is left out")
	}
	return path
}

// verifyBy has openssl verify a certificate strictly.
func verifyBy(t *testing.T, openssl string, roots, between, cert [][]byte, options ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	args := append([]string{"verify", "-x509_strict"}, options...)
	for _, f := range []struct {
		option string
		ders   [][]byte
	}{{"-CAfile", roots}, {"-untrusted", between}, {"", cert}} {
		if len(f.ders) == 0 {
			continue
		}
		path := filepath.Join(dir, "of"+f.option)
		if err := os.WriteFile(path, encodeCerts(f.ders), 0o600); err != nil {
			t.Fatal(err)
		}
		if f.option != "" {
			args = append(args, f.option)
		}
		args = append(args, path)
	}
	out, err := exec.Command(openssl, args...).CombinedOutput() //nolint:gosec // the test's own files
	return strings.TrimSpace(string(out)), err
}
