package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

// maxValueBytes is what an agent accepts; reading more of a file or of standard input is pointless.
const maxValueBytes = 512 << 10

func (a *app) kvCommand() *cobra.Command {
	cmd := group("kv", "Read and write the cluster's configuration")
	cmd.AddCommand(a.kvGetCommand(), a.kvListCommand(), a.kvPutCommand(), a.kvDeleteCommand(), a.kvWatchCommand(),
		a.kvHistoryCommand(), a.kvUndoCommand(), a.kvPurgeCommand(), a.kvTxnCommand())
	return cmd
}

func (a *app) kvGetCommand() *cobra.Command {
	var stale bool
	var revision uint64
	cmd := &cobra.Command{
		Use:         "get KEY",
		Short:       "Print a key's value and revisions; -o raw prints the bytes alone",
		Example:     "  parley kv get web/1 -o raw > web-1.conf\n  parley kv get greeting --wait 10s --expect '.value == \"hello\"'",
		Args:        takes("KEY"),
		Annotations: map[string]string{rawOutput: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				p, err := getAt(ctx, c, args[0], revision, stale)
				return answer{value: p, raw: p.Value, table: func(w io.Writer) {
					fields(w, "key", oneName(p.Key), "value", readable(p.Value), "revision", p.Revision,
						"create revision", p.CreateRevision, "version", p.Version, "modified", instant(p.ModifiedAt))
				}}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&stale, "stale", false, "take the nearest copy, even without a leader; it may be behind")
	cmd.Flags().Uint64Var(&revision, "revision", 0, "as it was when the state was at this revision (parley kv history)")
	return cmd
}

func getAt(ctx context.Context, c *client.Client, key string, revision uint64, stale bool) (client.Pair, error) {
	if revision > 0 {
		return c.GetAt(ctx, key, revision, stale)
	}
	return c.Get(ctx, key, client.ReadOptions{Stale: stale})
}

func (a *app) kvListCommand() *cobra.Command {
	var opts client.ListOptions
	cmd := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "Print the keys that begin with a prefix, with their values",
		Args:  takes("[PREFIX]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opts.Limit < 0 {
				return usageError("like --limit 50; leave it out for all", "--limit %d is negative", opts.Limit)
			}
			return a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				pairs, err := c.List(ctx, strings.Join(args, ""), opts)
				return answer{value: list(pairs), table: func(w io.Writer) {
					row(w, "KEY", "REVISION", "VERSION", "MODIFIED", "VALUE")
					for _, p := range pairs {
						row(w, oneName(p.Key), strconv.FormatUint(p.Revision, 10), strconv.FormatUint(p.Version, 10),
							instant(p.ModifiedAt), oneLine(p.Value))
					}
				}}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&opts.Stale, "stale", false, "take the nearest copy, even without a leader; it may be behind")
	cmd.Flags().IntVar(&opts.Limit, "limit", 0, "at most this many keys (default all)")
	return cmd
}

func (a *app) kvPutCommand() *cobra.Command {
	var file string
	var cas uint64
	opts := client.PutOptions{}
	cmd := &cobra.Command{
		Use:   "put KEY [VALUE|-]",
		Short: "Set a key to a value, a file's content, or standard input (-)",
		Example: "  parley kv put greeting hello\n  parley kv put web/1 --file web-1.conf\n" +
			"  parley kv put greeting hi --cas 12   # only if its revision is still 12; 0: only if it does not exist\n" +
			"  parley kv put leader web-1 --session ID   # only if it is or gets its lock",
		Args: takes("KEY", "[VALUE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := a.value(args[1:], file)
			if err != nil {
				return err
			}
			if opts.Release && opts.Session == "" {
				return usageError("add --session ID", "parley kv put --release names no session")
			}
			if cmd.Flags().Changed("cas") {
				opts.CAS = &cas
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				done, err := c.Put(ctx, args[0], value, opts)
				return answer{value: done, table: func(w io.Writer) {
					row(w, fmt.Sprintf("%s is at revision %d", args[0], done.Revision))
				}}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().StringVar(&opts.Session, "session", "", "take the key's lock for this session; a conflict if another one has it")
	cmd.Flags().BoolVar(&opts.Release, "release", false, "let go of the lock that --session holds")
	cmd.Flags().StringVar(&file, "file", "", "take the value from this file")
	requestIDFlag(cmd, &opts.RequestID)
	cmd.Flags().Uint64Var(&cas, "cas", 0, "only if the key's revision is this; 0 for a key that must not exist")
	return cmd
}

// requestIDFlag is for a write that may have been sent before.
func requestIDFlag(cmd *cobra.Command, id *string) {
	cmd.Flags().StringVar(id, "request-id", "", "ask again for what was sent under this id, which an unknown outcome names; it is done once")
}

// value is what to store: the argument, the file's content, or standard input.
func (a *app) value(args []string, file string) ([]byte, error) {
	switch {
	case file != "" && len(args) > 0:
		return nil, usageError("leave one of them out", "parley kv put has both a VALUE and --file")
	case file == "" && len(args) == 0:
		return nil, usageError("give a VALUE, --file FILE, or - for standard input", "parley kv put has no value")
	case len(args) > 0 && args[0] != "-":
		return []byte(args[0]), nil
	case file == "" || file == "-":
		return readValue("standard input", a.in)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return readValue(file, f)
}

func readValue(name string, r io.Reader) ([]byte, error) {
	value, err := io.ReadAll(io.LimitReader(r, maxValueBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(value) > maxValueBytes {
		return nil, usageError("split it over several keys, or store where it can be found",
			"%s has more than %d bytes, the limit of a value", name, maxValueBytes)
	}
	return value, nil
}

// readable is a value as a person reads it. It does nothing to the terminal; -o raw may.
func readable(value []byte) string {
	if !utf8.Valid(value) {
		return fmt.Sprintf("(%d bytes that are not text; -o raw prints them)", len(value))
	}
	odd := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
	if text := string(value); strings.ContainsFunc(text, odd) {
		return strconv.Quote(text)
	}
	return string(value)
}

// oneName is a key as a terminal may show it: whoever may write chose its bytes.
func oneName(key string) string {
	if !utf8.ValidString(key) || strings.ContainsFunc(key, unicode.IsControl) {
		return strconv.Quote(key)
	}
	return key
}

// oneLine keeps a value from breaking the table.
func oneLine(value []byte) string {
	const width = 60
	text := readable(value)
	if strings.ContainsFunc(text, unicode.IsControl) {
		text = strconv.Quote(text)
	}
	if utf8.RuneCountInString(text) > width {
		text = string([]rune(text)[:width-3]) + "..."
	}
	return text
}
