package command

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/parley-mesh/parley/security/svidfiles"
)

func (a *app) identityFetchCommand() *cobra.Command {
	cmd := group("fetch", "Get identities as a program does, to show them or to keep them in files")
	cmd.AddCommand(a.fetchX509Command(), a.fetchJWTCommand(), a.fetchBundlesCommand())
	return cmd
}

// identityFetch is what the flags of identity fetch say.
type identityFetch struct {
	*app
	socket, id, write string
	watch             bool
	audience          []string
	wanted            spiffeid.ID // id, parsed; zero: the first one
}

func (f *identityFetch) flags(cmd *cobra.Command, write string) {
	flags := cmd.Flags()
	flags.StringVar(&f.socket, "socket", "", "the workload socket (default that in --data-dir if given, else $"+workloadapi.SocketEnv+", else that beside the admin socket of --addr or $PARLEY_ADDR, else /run/parley/workload.sock)")
	flags.StringVar(&f.write, "write", "", write)
	flags.BoolVar(&f.watch, "watch", false, "stay, and write again whenever something is new; needs --write")
}

func (f *identityFetch) idFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.id, "id", "", "the SPIFFE ID of the identity, where a program has several (default the first)")
}

// check is done before anything is asked.
func (f *identityFetch) check() (err error) {
	switch {
	case len(f.audience) > 0 && strings.HasSuffix(f.write, "/"):
		return usageError("like --write "+f.write+"token.jwt", "--write %s names a directory, and a token is one file", f.write)
	case f.watch && f.write == "":
		return usageError("say where the files are with --write", "--watch keeps files fresh, and there are none")
	case f.id == "":
		return nil
	}
	if f.wanted, err = spiffeid.FromString(f.id); err != nil {
		return usageError("like --id spiffe://example.org/svc/web", "%q is no SPIFFE ID: %w", f.id, err)
	}
	return nil
}

func (a *app) fetchX509Command() *cobra.Command {
	f := &identityFetch{app: a}
	cmd := &cobra.Command{
		Use:   "x509",
		Short: "The certificates that this process gets; with --write the files of one",
		Long: "Who asks is attested, and that is this command, not the program that reads the files: run it as the same user or\n" +
			"in the same unit. --write DIR has svid.pem (certificate and issuer), key.pem, both once more in svid-key.pem,\n" +
			"bundle.pem (roots of the own trust domain) and bundles.json (a SPIFFE bundle map, with federated ones). Keys are\n" +
			"for their owner alone (0600). Each file is replaced in one step, two files in two: who reads the key and the\n" +
			"certificate apart looks again when they do not match, and who reads svid-key.pem once need not. DIR is made if\n" +
			"need be. Nothing is written through a symbolic link, over a file of another user, or where others may write.",
		Example: "  parley identity fetch x509\n" +
			"  parley identity fetch x509 --write /run/web/identity --wait 1m\n" +
			"  parley identity fetch x509 --write /run/web/identity --watch",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, f.x509, f.watchX509) },
	}
	f.flags(cmd, "directory for the files")
	f.idFlag(cmd)
	return cmd
}

func (a *app) fetchJWTCommand() *cobra.Command {
	f := &identityFetch{app: a}
	cmd := &cobra.Command{
		Use:   "jwt",
		Short: "A token that says to others who this process is",
		Long: "A token counts for its audiences alone and is a secret: who has it is who it names until it ends. -o raw prints\n" +
			"it alone, --write FILE puts it into a file for its owner alone (0600), by the rules of identity fetch x509 for\n" +
			"directories. With --watch it is replaced at half of its life.",
		Example: "  parley identity fetch jwt --audience db -o raw\n" +
			"  parley identity fetch jwt --audience db --write /run/web/token/db.jwt --watch",
		Annotations: map[string]string{rawOutput: "yes"},
		Args:        takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(f.audience) == 0 {
				return usageError("like --audience db: what the one calls himself to whom it is shown", "say for whom the token is with --audience")
			}
			return f.run(cmd, f.jwt, f.watchJWT)
		},
	}
	f.flags(cmd, "file for the token, in a directory of its own")
	f.idFlag(cmd)
	cmd.Flags().StringArrayVar(&f.audience, "audience", nil, "for whom the token is; again for more")
	return cmd
}

func (a *app) fetchBundlesCommand() *cobra.Command {
	f := &identityFetch{app: a}
	cmd := &cobra.Command{
		Use:   "bundles",
		Short: "What this process is to check others by: roots and keys of tokens, of each trust domain",
		Long: "The own trust domain and those that the entries of the process federate with. --write DIR has bundles.json, a\n" +
			"SPIFFE bundle map with the keys of tokens too, by the rules of identity fetch x509 for directories.",
		Example: "  parley identity fetch bundles\n" +
			"  parley identity fetch bundles --write /run/web/bundles --watch",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, f.bundles, f.watchBundles) },
	}
	f.flags(cmd, "directory for bundles.json")
	return cmd
}

// fetchedX509 is the JSON of identity fetch x509.
type fetchedX509 struct {
	SVIDs        []fetchedSVID `json:"svids"`
	TrustDomains []string      `json:"trust_domains"`
	fetchedFiles
}

type fetchedSVID struct {
	SPIFFEID  string    `json:"spiffe_id"`
	Hint      string    `json:"hint,omitempty"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// fetchedFiles is what has been written; a file that is as it was before is not.
type fetchedFiles struct {
	Written []string `json:"written,omitempty"`
}

func (w fetchedFiles) rows(out io.Writer) {
	for _, path := range w.Written {
		row(out, "wrote "+path)
	}
}

func (f *identityFetch) x509(ctx context.Context, c *workloadapi.Client) (fetched, error) {
	got, err := c.FetchX509Context(ctx)
	if err != nil {
		return fetched{}, fetchFailed(err)
	}
	return f.takeX509(got)
}

func (f *identityFetch) takeX509(got *workloadapi.X509Context) (fetched, error) {
	svids := got.SVIDs
	if f.write != "" || f.id != "" {
		one, err := f.choose(svids)
		if err != nil {
			return fetched{}, err
		}
		svids = []*x509svid.SVID{one}
	}
	value := &fetchedX509{}
	for _, s := range svids {
		leaf := s.Certificates[0]
		value.SVIDs = append(value.SVIDs, fetchedSVID{
			SPIFFEID: s.ID.String(), Hint: s.Hint, Serial: leaf.SerialNumber.Text(16), NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(),
		})
	}
	for _, b := range got.Bundles.Bundles() {
		value.TrustDomains = append(value.TrustDomains, b.TrustDomain().Name())
	}
	result := fetched{value: value, wrote: &value.fetchedFiles, table: func(w io.Writer) {
		row(w, "IDENTITY", "HINT", "FROM", "TO", "SERIAL")
		for _, s := range value.SVIDs {
			row(w, s.SPIFFEID, s.Hint, instant(s.NotBefore), instant(s.NotAfter), s.Serial)
		}
		value.rows(w)
	}}
	if f.write == "" {
		return result, nil
	}
	var err error
	result.files, err = svidfiles.X509(svids[0], got.Bundles)
	return result, err
}

func (f *identityFetch) choose(svids []*x509svid.SVID) (*x509svid.SVID, error) {
	var others []string
	for _, s := range svids {
		if f.wanted.IsZero() || s.ID == f.wanted {
			return s, nil
		}
		others = append(others, s.ID.String())
	}
	return nil, &failure{code: exitDenied, err: fmt.Errorf("this process does not get %s, but %s", f.wanted, strings.Join(others, ", ")), hint: explainHint}
}

// fetchedJWT is the JSON of identity fetch jwt. The token is not beside the file that it is in.
type fetchedJWT struct {
	SPIFFEID  string    `json:"spiffe_id"`
	Hint      string    `json:"hint,omitempty"`
	Audience  []string  `json:"audience"`
	ExpiresAt time.Time `json:"expires_at"`
	Token     string    `json:"token,omitempty"`
	fetchedFiles
}

func (f *identityFetch) jwt(ctx context.Context, c *workloadapi.Client) (fetched, error) {
	got, err := c.FetchJWTSVID(ctx, jwtsvid.Params{Audience: f.audience[0], ExtraAudiences: f.audience[1:], Subject: f.wanted})
	if err != nil {
		return fetched{}, fetchFailed(err)
	}
	value := &fetchedJWT{SPIFFEID: got.ID.String(), Hint: got.Hint, Audience: got.Audience, ExpiresAt: got.Expiry.UTC()}
	result := fetched{value: value, wrote: &value.fetchedFiles, raw: []byte(got.Marshal() + "\n"), ends: got.Expiry, table: func(w io.Writer) {
		fields(w, "identity", value.SPIFFEID, "for", strings.Join(value.Audience, " "), "until", instant(value.ExpiresAt))
		if value.Token != "" {
			fields(w, "token", value.Token)
		}
		value.rows(w)
	}}
	if f.write == "" {
		value.Token = got.Marshal()
		return result, nil
	}
	result.files = []svidfiles.File{{Name: filepath.Base(f.write), Data: []byte(got.Marshal()), Secret: true}}
	return result, nil
}

// fetchedBundles is the JSON of identity fetch bundles.
type fetchedBundles struct {
	TrustDomains []fetchedBundle `json:"trust_domains"`
	fetchedFiles
}

type fetchedBundle struct {
	Name    string `json:"name"`
	Roots   int    `json:"roots"`
	JWTKeys int    `json:"jwt_keys"`
}

func (f *identityFetch) bundles(ctx context.Context, c *workloadapi.Client) (fetched, error) {
	roots, err := c.FetchX509Bundles(ctx)
	if err != nil {
		return fetched{}, fetchFailed(err)
	}
	keys, err := c.FetchJWTBundles(ctx)
	if err != nil {
		return fetched{}, fetchFailed(err)
	}
	return f.takeBundles(roots, keys)
}

func (f *identityFetch) takeBundles(roots *x509bundle.Set, keys *jwtbundle.Set) (fetched, error) {
	value := &fetchedBundles{TrustDomains: []fetchedBundle{}}
	var all []*spiffebundle.Bundle
	for _, b := range roots.Bundles() {
		both := spiffebundle.FromX509Bundle(b)
		if k, ok := keys.Get(b.TrustDomain()); ok {
			both.SetJWTAuthorities(k.JWTAuthorities())
		}
		all = append(all, both)
		value.TrustDomains = append(value.TrustDomains, fetchedBundle{
			Name: b.TrustDomain().Name(), Roots: len(b.X509Authorities()), JWTKeys: len(both.JWTAuthorities()),
		})
	}
	result := fetched{value: value, wrote: &value.fetchedFiles, table: func(w io.Writer) {
		row(w, "TRUST DOMAIN", "ROOTS", "KEYS OF TOKENS")
		for _, b := range value.TrustDomains {
			row(w, b.Name, fmt.Sprint(b.Roots), fmt.Sprint(b.JWTKeys))
		}
		value.rows(w)
	}}
	file, err := svidfiles.Bundles(all...)
	result.files = []svidfiles.File{file}
	return result, err
}
