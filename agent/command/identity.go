package command

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

func (a *app) identityCommand() *cobra.Command {
	cmd := group("identity", "Identities of the programs of this host, and which programs get which")
	entry := group("entry", "Registration entries: which programs get which identity")
	entry.AddCommand(a.entryAddCommand(), a.entryListCommand(), a.entryShowCommand(), a.entryRemoveCommand())
	cmd.AddCommand(a.identityShowCommand(), a.identityExplainCommand(), a.identityFetchCommand(), entry)
	return cmd
}

func (a *app) identityShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "The certificates in use on this host, and how long they last without any renewal",
		Args:  takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			r, err := c.Identity(ctx)
			if err == nil {
				r.Certificates = list(r.Certificates)
			}
			return answer{value: r, table: func(w io.Writer) {
				row(w, "LINK", "OF", "IDENTITY", "LEFT", "ENDS", "HINT")
				for _, u := range r.Certificates {
					row(w, u.Link, u.Of, u.SPIFFEID, fmt.Sprintf("%.0f %%", 100*u.Remaining), instant(u.NotAfter), u.Hint)
				}
				row(w, "\nIf nothing is renewed, the first ends in "+(time.Duration(r.OutageIn)*time.Second).String()+".")
			}}, err
		}),
	}
}

func (a *app) identityExplainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain PID",
		Short: "Which identities a process of this host gets, and why not others",
		Long: "Prints what was found out about the process, the entries that hold for it, and of the nearest others what each\n" +
			"wants that was not found.",
		Example: "  parley identity explain 4711",
		Args:    takes("PID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pid, err := strconv.Atoi(args[0])
			if err != nil || pid <= 0 {
				return usageError("find it with ps or pgrep", "%q is not the number of a process", args[0])
			}
			return a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				e, err := c.ExplainIdentity(ctx, pid)
				return answer{value: e, table: func(w io.Writer) { tableExplanation(w, e) }}, err
			})(cmd, nil)
		},
	}
}

func tableExplanation(w io.Writer, e client.IdentityExplanation) {
	row(w, fmt.Sprintf("Found of process %d:", e.PID))
	for _, s := range e.Selectors {
		row(w, "  "+plainly(s))
	}
	if len(e.Entries) == 0 {
		row(w, "No entry holds: the process gets no identity.")
	}
	for _, held := range e.Entries {
		row(w, fmt.Sprintf("It gets %s, by the entry %s.", held.SPIFFEID, held.Name))
	}
	for _, near := range e.Nearest {
		row(w, fmt.Sprintf("Not %s, by the entry %s:", near.SPIFFEID, near.Name))
		for _, d := range near.Differences {
			row(w, "  "+plainly(d))
		}
	}
}

// unknownNodes are the nodes of an entry that no agent has the name of, perhaps by a typing error. Without members nothing is known.
func unknownNodes(nodes []string, members []client.Member) (unknown []string) {
	for _, node := range nodes {
		if len(members) > 0 && !slices.ContainsFunc(members, func(m client.Member) bool { return m.Name == node }) {
			unknown = append(unknown, node)
		}
	}
	return unknown
}

// plainly is a text as it can be shown: in quotes if it has anything but printable characters. A user names his programs as he
// likes, and must not write lines of his own, or colours, to the terminal of who looks at them.
func plainly(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	return s
}

func (a *app) entryAddCommand() *cobra.Command {
	spec := client.EntrySpec{}
	var ttl, jwtTTL time.Duration
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Say which programs get an identity",
		Long: "A program gets the identity if all selectors hold for it. Each is KIND:VALUE with uid, gid, group, unit (of\n" +
			"systemd), invocation (of that unit: one run of it), cgroup, path or sha256 (of the program's file); one of them has\n" +
			"to be uid, unit or cgroup, because the others can be had by any user who runs the same program. The identity is\n" +
			"spiffe://TRUST-DOMAIN/svc/NAME unless --id says otherwise. It is there within milliseconds, on every agent or on\n" +
			"those that --node names.",
		Example: "  parley identity entry add web --selector unit:web.service\n" +
			"  parley identity entry add batch --id /team/batch --selector uid:1001 --selector path:/usr/bin/batch --ttl 10m\n" +
			"  parley identity entry add web --selector uid:1002 --service web --replace",
		Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Name = args[0]
			if len(spec.Selectors) == 0 {
				return usageError("like --selector unit:web.service, or --selector uid:1000", "say which programs with --selector")
			}
			for _, d := range []time.Duration{ttl, jwtTTL} {
				if d < 0 || d%time.Second != 0 {
					return usageError("like 10m", "a TTL is a number of whole seconds, not %s", d)
				}
			}
			spec.TTLSeconds, spec.JWTTTLSeconds = uint64(ttl/time.Second), uint64(jwtTTL/time.Second)
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				e, err := c.SetEntry(ctx, spec)
				if err != nil {
					return answer{}, err
				}
				var unknown []string
				if len(e.Nodes) > 0 {
					members, _ := c.Members(ctx) // the entry is written: who cannot be asked is not warned
					unknown = unknownNodes(e.Nodes, members)
				}
				return answer{value: e, table: func(w io.Writer) {
					row(w, fmt.Sprintf("%s is for programs with %s", e.SPIFFEID, strings.Join(e.Selectors, ", ")))
					for _, node := range unknown {
						row(w, fmt.Sprintf("no agent is named %s: there it counts once one has joined", node))
					}
				}}, nil
			})(cmd, nil)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&spec.Selectors, "selector", nil, "what has to hold for the program, KIND:VALUE; again for more")
	flags.StringVar(&spec.SPIFFEID, "id", "", "the identity: a path like /team/batch, or a whole SPIFFE ID (default /svc/NAME)")
	flags.StringArrayVar(&spec.Nodes, "node", nil, "an agent on which it counts; again for more (default all)")
	flags.StringVar(&spec.Service, "service", "", "it counts only while an instance of this service is registered with the program's agent")
	flags.StringArrayVar(&spec.FederatesWith, "federates-with", nil, "a trust domain whose bundle the program gets too; again for more")
	flags.DurationVar(&ttl, "ttl", 0, "how long a certificate lasts, 10s to 6h (default 1h)")
	flags.DurationVar(&jwtTTL, "jwt-ttl", 0, "how long a token lasts, 10s to 1h (default 5m)")
	flags.StringVar(&spec.Hint, "hint", "", "tells a program with several identities which is which")
	flags.StringVar(&spec.Owner, "owner", "", "whom to ask about it: a group, rather than a person")
	flags.BoolVar(&spec.Replace, "replace", false, "write an entry that exists anew")
	return cmd
}

func (a *app) entryListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "The registration entries",
		Args:  takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			all, err := c.Entries(ctx)
			return answer{value: list(all), table: func(w io.Writer) {
				row(w, "NAME", "IDENTITY", "SELECTORS", "NODES", "SERVICE", "TTL", "OWNER")
				for _, e := range all {
					row(w, e.Name, e.SPIFFEID, strings.Join(e.Selectors, " "), strings.Join(e.Nodes, " "), e.Service, seconds(e.TTLSeconds), e.Owner)
				}
			}}, err
		}),
	}
}

func seconds(n uint64) string { return (time.Duration(n) * time.Second).String() } //nolint:gosec // a few hours

func (a *app) entryShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "One registration entry",
		Args:  takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				e, err := c.Entry(ctx, args[0])
				return answer{value: e, table: func(w io.Writer) {
					fields(w, "name", e.Name, "identity", e.SPIFFEID, "selectors", strings.Join(e.Selectors, " "), "nodes", strings.Join(e.Nodes, " "),
						"service", e.Service, "federates with", strings.Join(e.FederatesWith, " "), "certificate", seconds(e.TTLSeconds), "token", seconds(e.JWTTTLSeconds),
						"hint", e.Hint, "owner", e.Owner, "created", instant(e.CreatedAt), "changed", instant(e.ChangedAt), "by", e.ChangedBy, "generation", e.Generation)
				}}, err
			})(cmd, nil)
		},
	}
}

func (a *app) entryRemoveCommand() *cobra.Command {
	return a.removing(&cobra.Command{
		Use:     "remove NAME",
		Short:   "Give an identity to nobody any more by this entry",
		Long:    "Nothing is issued by it from then on. What was issued counts until it ends, at most its TTL.",
		Example: "  parley identity entry remove web --dry-run",
	}, removal{
		kind: "entry",
		radius: func(ctx context.Context, c *client.Client, name string) (string, error) {
			e, err := c.Entry(ctx, name)
			return fmt.Sprintf("programs with %s lose %s: their certificates end within %s and are not renewed",
				strings.Join(e.Selectors, ", "), e.SPIFFEID, seconds(e.TTLSeconds)), err
		},
		remove: func(ctx context.Context, c *client.Client, name string) error { return c.RemoveEntry(ctx, name) },
	})
}
