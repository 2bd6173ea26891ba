package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/security"
)

// TestJoinRefused: an agent gets in with a token of this cluster that is still good, and in no other
// way. A refusal says why and what to do, leaves nothing in the cluster and no membership in the data
// directory, and the same directory joins with a good token afterwards (the control).
func TestJoinRefused(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	good, _ := newToken(t, l, client.TokenSpec{})
	_, revoked := newToken(t, l, client.TokenSpec{})
	if err := clientOf(t, l.Agents[0]).RevokeToken(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	_, expired := newToken(t, l, client.TokenSpec{TTL: time.Second})
	bound, _ := newToken(t, l, client.TokenSpec{Node: "web-9"})
	otherRoot, otherCluster, otherSecret := good, good, good
	otherRoot.Roots = [][32]byte{{1}}
	otherCluster.ClusterID = "00112233445566778899aabbccddeeff"
	otherSecret.Secret[7] ^= 1
	damaged := []byte(good.String())
	damaged[40] ^= 1
	before := settled(t, l)

	for _, tt := range []struct {
		name          string
		node          string
		more          []string
		code          int
		problem, hint string
	}{
		{"no token", "j", nil, 1, "there is an address to join by, but no token", "parley token create"},
		{"no file", "j", []string{"--token-file", "/nonexistent"}, 1, "open /nonexistent: no such file", "put it into that file"},
		{"a directory", "j", []string{"--token-file", "/"}, 1, "read the join token", "put it into that file"},
		{"empty file", "j", []string{"--token-file", "/dev/null"}, 1, "the token file /dev/null is empty", "parley token create"},
		{"no token at all", "j", []string{"--token-file", inFile(t, "hello")}, 1, "this is not a join token", "copy the whole line"},
		{"mistyped", "j", []string{"--token-file", inFile(t, string(damaged))}, 1, "incomplete or mistyped", "copy the whole line"},
		{"used", "j", []string{"--token-file", filepath.Join(l.Dir, "token")}, 4, "(token_used): the token has been used", "make a new token"},
		{"expired", "j", []string{"--token-file", inFile(t, expired.Token)}, 4, "(token_expired): the token expired", "longer --ttl"},
		{"revoked", "j", []string{"--token-file", inFile(t, revoked.Token)}, 4, "(token_revoked): the token was revoked", "make a new token"},
		{"secret of another", "j", []string{"--token-file", inFile(t, otherSecret.String())}, 4, "(token_unknown): no such token, or its secret is another one", "make a new token"},
		{"for another node", "j", []string{"--token-file", inFile(t, bound.String())}, 4, "(token_bound): the token is for node web-9, this one is j", "--name that the token was made for"},
		{"of another cluster with this root", "j", []string{"--token-file", inFile(t, otherCluster.String())}, 4, "(foreign): the token is for another cluster", "in the cluster that you want to join"},
		{"another root", "j", []string{"--token-file", inFile(t, otherRoot.String())}, 4, "(root_mismatch): no address belongs to the cluster of the token", "check the address of --join"},
		{"of another cluster", "j", []string{"--token-file", inFile(t, foreignToken(t))}, 4, "shows no root that the token names, so nothing was sent to it", "check the address of --join"},
		{"name taken", "a2", []string{"--token-file", inFile(t, good.String())}, 1, `(name_taken): the name "a2" belongs to another host`, "--replace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "expired" {
				time.Sleep(time.Until(expired.ExpiresAt) + 50*time.Millisecond) // what is tested is time
			}
			dir := filepath.Join(shortDir(t), "d")
			more := append([]string{"--join", l.Agents[0].Mesh}, tt.more...)
			parley(t, freshAgent(t, dir, tt.node, more...)...).wants(t, tt.code, tt.problem, tt.hint)
			notJoined(t, dir)
			unchanged(t, l, before)
		})
	}
	joins(t, l, good)
}

// joins shows that what was refused above was refused for its reason alone.
func joins(t *testing.T, l *lab.Lab, good security.Token) {
	dir := filepath.Join(shortDir(t), "d")
	at := []string{"--join", l.Agents[0].Mesh}
	parley(t, freshAgent(t, dir, "a3", append(at, "--token-file", inFile(t, good.String()))...)...).
		wants(t, 1, "(name_taken)", "--replace")
	startAgent(t, freshAgent(t, dir, "j", append(at, "--token-file", inFile(t, good.String()))...)...)
	eventually(t, 15*time.Second, "the control joins", func(ctx context.Context) error {
		members, err := clientOf(t, l.Agents[1]).Members(ctx)
		if err == nil && len(members) != 4 {
			err = fmt.Errorf("%d members", len(members))
		}
		return err
	})
}

func notJoined(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"cluster.toml", "wal", "snap", "view", "identity/leaf.pem", "identity/bundle.pem"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the data directory holds %s (%v)", name, err)
		}
	}
}

// foreignToken is a good token of a cluster that does not run here.
func foreignToken(t *testing.T) string {
	t.Helper()
	dir := foreign(t)
	startAgent(t, freshAgent(t, dir, "")...)
	var made client.TokenAnswer
	c, err := client.New("unix://" + filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, 15*time.Second, "a token of the other cluster", func(ctx context.Context) (err error) {
		made, err = c.CreateToken(ctx, client.TokenSpec{TTL: time.Minute, Uses: 1})
		return err
	})
	return made.Token
}
