package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/ops"
)

// A data directory is its owner's: root, which could write there, would leave files that the service's user cannot
// read.
func TestOnlyTheOwnerRuns(t *testing.T) {
	if err := strangersDir("/d", 4711, 4711); err != nil {
		t.Errorf("the owner: %v", err)
	}
	err := strangersDir("/d", 4711, 0)
	if err == nil || err.Error() != "/d belongs to the user 4711, and this runs as root" ||
		!strings.Contains(Hint(err), "runuser -u 4711 -- parley") {
		t.Errorf("root in another one's directory: %v, hint %q", err, Hint(err))
	}
}

// The same with real owners: neither init nor agent nor check --pre takes the directory, and nothing is written there.
func TestStrangersDataDir(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a directory away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	const want = "belongs to the user 4711"
	if _, err := Init(t.Context(), InitOptions{DataDir: dir, TrustDomain: "td.example", Name: "a1", Log: zap.NewNop()}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("init: %v", err)
	}
	cfg := preConfig(t)
	cfg.DataDir = dir
	a, err := New(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("agent: %v", err)
	}
	if c := resultOf(t, Precheck(t.Context(), cfg), "data-dir", want); c.Status != ops.CheckFail {
		t.Errorf("check --pre: %+v", c)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A file that somebody else wrote into the directory is denied with the command that mends it; other errors keep the
// hint that they have.
func TestPermissionHint(t *testing.T) {
	denied := func(path string) error { return &os.PathError{Op: "open", Path: path, Err: os.ErrPermission} }
	if got := Hint(withOwnerHint(denied("/d/clock"), "/d")); got != "another user wrote there; as root: chown -R "+userName(os.Geteuid())+": /d" {
		t.Errorf("got %q", got)
	}
	if got := Hint(withOwnerHint(withHint(denied("/d/clock"), "own"), "/d")); got != "own" {
		t.Errorf("an error with a hint: got %q", got)
	}
	for _, err := range []error{denied("/etc/token"), os.ErrNotExist, nil} {
		if got := withOwnerHint(err, "/d"); got != err { //nolint:errorlint // the same value
			t.Errorf("%v became %v with %q", err, got, Hint(got))
		}
	}
}

// A path that is one byte too long for the admin socket is refused before anything is made, and the longest that is
// not runs.
func TestDataDirTooLongForASocket(t *testing.T) {
	at := func(excess int) string {
		base := t.TempDir()
		n := maxSocketPath - len(filepath.Join(base, "x", adminSocket)) + 1 + excess
		if n < 1 {
			t.Skip("the temporary directory's path is too long to try the limit")
		}
		return filepath.Join(base, strings.Repeat("x", n))
	}
	long := at(1)
	if n := socketExcess(long); n != 1 {
		t.Fatalf("excess of the tried path: got %d", n)
	}
	cfg, err := config.Load("", config.Override{Key: "data_dir", Value: long})
	if err != nil {
		t.Fatal(err)
	}
	if c := resultOf(t, Precheck(t.Context(), cfg), "data-dir", "1 bytes too long"); c.Status != ops.CheckFail {
		t.Errorf("check --pre: %+v", c)
	}
	_, err = Init(t.Context(), InitOptions{DataDir: long, TrustDomain: "td.example", Name: "a1", Log: zap.NewNop()})
	if err == nil || !strings.Contains(err.Error(), "1 bytes too long") || Hint(err) == "" {
		t.Errorf("init: %v", err)
	}
	if _, err := os.Stat(long); !os.IsNotExist(err) {
		t.Errorf("the directory was made: %v", err)
	}
	fits := at(0)
	if err := os.Mkdir(fits, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := listenUnix(filepath.Join(fits, adminSocket))
	if err != nil {
		t.Fatalf("the longest path: %v", err)
	}
	_ = l.Close()
	if _, err := openDataDir(fits); err != nil {
		t.Errorf("the longest path: %v", err)
	}
}
