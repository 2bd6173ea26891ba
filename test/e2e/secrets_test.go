package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/security"
)

// artefacts is where secrets are looked for: what each file, answer or process holds, by its name.
type artefacts map[string][]byte

func (a artefacts) file(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a[path] = text
}

// process adds the environment and the arguments of a process.
func (a artefacts) process(t *testing.T, pid int) {
	t.Helper()
	for _, name := range []string{"environ", "cmdline"} {
		a.file(t, fmt.Sprintf("/proc/%d/%s", pid, name))
	}
}

// disk adds all files of an agent but those that hold its secrets.
func (a artefacts) disk(t *testing.T, agent *lab.Agent) {
	t.Helper()
	err := filepath.WalkDir(filepath.Dir(agent.DataDir), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Ext(path) != ".key" && !isGenerations(filepath.Base(path)) {
			a.file(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// isGenerations tells the files of generations, of this host key and of another one that was in its place.
func isGenerations(name string) bool {
	aside, _ := filepath.Match("generation-????????????????????????????????.secret", name)
	return aside || name == "generation.secret"
}

// search returns what of the needles, and which private keys, are in which artefact.
func (a artefacts) search(needles []needle) (hits []string) {
	for name, data := range a {
		seen := make(map[string]bool)
		for _, layer := range layers(data) {
			for _, n := range needles {
				if n.in(layer) {
					seen[n.name] = true
				}
			}
			for _, key := range keysIn(layer) {
				seen["private key, "+key] = true
			}
		}
		for what := range seen {
			hits = append(hits, what+" in "+name)
		}
	}
	return hits
}

// TestSecretsInNoArtefact: what an agent leaves behind, tells or hands out holds no secret: log, snapshots, view and other files of
// its data directory, its log lines, a backup, a debug bundle with its recording, the answers of commands, metrics, environment and
// arguments. Looked for are private keys of anybody, in PEM or DER at any offset, packed or in base64, and by their values the keys
// of the agents, of a program and of an operator, tokens to join, and a JWT-SVID.
//
// The controls: a private key that a user has written into the store is found in the logs and in the backup, which is where his data
// is; a token in the environment and in the arguments of a process is found there.
func TestSecretsInNoArtefact(t *testing.T) {
	t.Parallel()
	l := startLab(t, lab.Options{Agents: 3, Settings: map[string]string{"identity.leaf_ttl": "20s"}}) // so that there are generations
	settled(t, l)
	a1 := l.Agents[0]
	c := clientOf(t, a1)
	planted := newKey(t)
	for form, value := range keyForms(t, planted) {
		if _, err := c.Put(t.Context(), "planted/"+form, value, client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	otherHostKey(t, l, l.Agents[2])
	settled(t, l)
	secrets := knownSecrets(t, l, c)
	found := leftBehind(t, l)
	owner := hashOf(planted.Public())
	var inLog, inBackup bool
	for _, hit := range found.search(secrets) {
		switch {
		case !strings.Contains(hit, owner):
			t.Error(hit)
		case strings.HasSuffix(hit, ".wal"):
			inLog = true
		case strings.HasSuffix(hit, "backup"):
			inBackup = true
		case strings.Contains(hit, string(filepath.Separator)+"snap"+string(filepath.Separator)): // the user's data, too
		default:
			t.Errorf("what a user has written: %s", hit)
		}
	}
	if !inLog || !inBackup {
		t.Errorf("control: the planted key is found in the log %t, in the backup %t", inLog, inBackup)
	}
	t.Logf("%d secrets, %d artefacts", len(secrets), len(found))

	token := labToken(t, l).String()
	control := exec.Command("sleep", "60")
	control.Args[0] = token
	control.Env = []string{"PARLEY_TOKEN=" + token}
	if err := control.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = control.Process.Kill(); _ = control.Wait() }()
	// The kernel reports a program as started a moment before its arguments can be seen in /proc.
	eventually(t, 10*time.Second, "arguments and environment are seen in /proc", func(context.Context) error {
		for _, name := range []string{"cmdline", "environ"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", control.Process.Pid, name))
			if err != nil || len(text) == 0 {
				return fmt.Errorf("%s has %d bytes: %w", name, len(text), err)
			}
		}
		return nil
	})
	shown := artefacts{}
	shown.process(t, control.Process.Pid)
	hits := strings.Join(shown.search(secrets), "\n")
	if !strings.Contains(hits, "token in /proc") || !strings.Contains(hits, "/environ") || !strings.Contains(hits, "/cmdline") {
		t.Errorf("control: of a token in the environment and the arguments of a process this is found: %s", hits)
	}
}

// knownSecrets makes one of each kind, and returns how to recognise all of them.
func knownSecrets(t *testing.T, l *lab.Lab, c *client.Client) (out []needle) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, a := range l.Agents {
		out = append(out, keyNeedles(t, a.Name, filepath.Join(a.DataDir, "identity"))...)
		claim, err := os.ReadFile(filepath.Join(a.DataDir, "claim.key"))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, newNeedle(a.Name+" claim.key", claim))
		if a != l.Agents[0] { // the founder's first certificate has the default life
			out = append(out, generationNeedles(t, a, "generation.secret")...)
		}
	}
	kept, err := filepath.Glob(filepath.Join(l.Agents[2].DataDir, "identity", "generation-*.secret"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("the generations of another host key: %q, %v", kept, err)
	}
	out = append(out, generationNeedles(t, l.Agents[2], filepath.Base(kept[0]))...)
	fresh, err := c.CreateToken(ctx, client.TokenSpec{Uses: 1, Role: "local"})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := security.ParseToken(fresh.Token)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]security.Token{"the lab's token": labToken(t, l), "a token": parsed} {
		out = append(out, newNeedle(name, []byte(token.String())), newNeedle(name+"'s secret", token.Secret[:]))
	}
	if _, err := c.SetEntry(ctx, client.EntrySpec{Name: "web", Selectors: []string{"uid:" + strconv.Itoa(os.Geteuid())}}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	asked := func(args ...string) string {
		s := parley(t, append(args, "--data-dir", l.Agents[0].DataDir)...)
		if s.code != 0 {
			t.Fatalf("%v: %+v", args, s)
		}
		return s.out
	}
	asked("identity", "fetch", "x509", "--write", filepath.Join(dir, "program"), "--wait", "10s")
	asked("operator", "add", "eve", "--role", "local", "--out", filepath.Join(dir, "operator"))
	for _, who := range []string{"program", "operator"} {
		if err := os.Rename(filepath.Join(dir, who, "key.pem"), filepath.Join(dir, who, who+".key")); err != nil {
			t.Fatal(err)
		}
		out = append(out, keyNeedles(t, who, filepath.Join(dir, who))...)
	}
	jwt := strings.TrimSpace(asked("identity", "fetch", "jwt", "--audience", "db", "-o", "raw", "--wait", "10s"))
	signature := jwt[strings.LastIndexByte(jwt, '.')+1:]
	return append(out, needle{name: "a JWT-SVID", forms: [][]byte{[]byte(signature)}})
}

// otherHostKey has an agent's directory hold the generations of another host key, as if that one had been in it for a while.
func otherHostKey(t *testing.T, l *lab.Lab, a *lab.Agent) {
	t.Helper()
	generationNeedles(t, a, "generation.secret") // of its own there are some
	clusterID := statusOf(t, clientOf(t, a)).ClusterID
	kill(t, l, a.Name)
	host, err := security.NewHost()
	if err != nil {
		t.Fatal(err)
	}
	r := security.OpenRatchet(a.DataDir, clusterID, a.Name, host)
	for range 3 {
		_, err := r.Link()
		if err = errors.Join(err, r.Accepted()); err != nil {
			t.Fatal(err)
		}
	}
	restart(t, l, a.Name)
}

// generationNeedles are the secrets in a file of an agent's generations, once there are some.
func generationNeedles(t *testing.T, a *lab.Agent, name string) (out []needle) {
	t.Helper()
	var file struct{ Secrets, Pending []byte }
	var text []byte
	eventually(t, 30*time.Second, "a generation of "+a.Name, func(context.Context) error {
		data, err := os.ReadFile(filepath.Join(a.DataDir, "identity", name))
		if err == nil {
			text, err = data, json.Unmarshal(data, &file)
		}
		if err == nil && len(file.Secrets)+len(file.Pending) == 0 {
			err = errors.New("it has no secret")
		}
		return err
	})
	for secret := range slices.Chunk(append(file.Secrets, file.Pending...), 16) {
		n := newNeedle(a.Name+" "+name, secret)
		if !n.in(text) {
			t.Errorf("control: the generations of %s are not found in the file itself", a.Name)
		}
		out = append(out, n)
	}
	return out
}

// leftBehind gathers what three agents leave behind, tell and hand out.
func leftBehind(t *testing.T, l *lab.Lab) artefacts {
	t.Helper()
	all, dir := artefacts{}, t.TempDir()
	for _, a := range l.Agents {
		all.process(t, a.Pid())
		for _, command := range []string{
			"status", "members", "core", "config default", "identity show", "identity entry list", "identity entry show web",
			"identity explain " + strconv.Itoa(os.Getpid()), "identity fetch x509", "identity fetch bundles", "ca status", "ca timeline", "token list", "operator list", "events", "alerts",
			"health explain", "node status " + a.Name, "check", "debug recordings", "slo", "digest compare", "invariant list", "session list",
		} {
			for _, format := range []string{"table", "json"} {
				s := parley(t, append(strings.Fields(command), "-o", format, "--data-dir", a.DataDir)...)
				if s.out == "" {
					t.Errorf("%s of %s says nothing: %+v", command, a.Name, s)
				}
				all[fmt.Sprintf("%s of %s as %s", command, a.Name, format)] = []byte(s.out + s.err)
			}
		}
		bundle := filepath.Join(dir, a.Name+".bundle")
		if s := parley(t, "debug", "bundle", "--file", bundle, "--data-dir", a.DataDir); s.code != 0 {
			t.Fatalf("%+v", s)
		}
		all.file(t, bundle)
		all["metrics of "+a.Name] = metricsOf(t, a)
	}
	backup := filepath.Join(dir, "backup")
	if s := parley(t, "snapshot", "save", backup, "--data-dir", l.Agents[0].DataDir); s.code != 0 {
		t.Fatalf("%+v", s)
	}
	all.file(t, backup)
	inspected := parley(t, "snapshot", "inspect", backup, "-o", "json")
	all["snapshot inspect"] = []byte(inspected.out + inspected.err)
	for _, a := range l.Agents {
		all.disk(t, a) // last: what was done above may have left something, too
	}
	return all
}

func metricsOf(t *testing.T, a *lab.Agent) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.HTTP+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(response.Body)
	if err != nil || !bytes.Contains(text, []byte("parley_")) {
		t.Fatalf("metrics of %s: %v, %.100s", a.Name, err, text)
	}
	return text
}
