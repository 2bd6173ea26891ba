package command

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/agent"
	"github.com/parley-mesh/parley/api/client"
)

func (a *app) debugCommand() *cobra.Command {
	cmd := group("debug", "What this agent did, for who looks for a mistake")
	cmd.AddCommand(a.bundleCommand(), a.recordingsCommand(), a.forgetCommand())
	return cmd
}

// bundleAnswer is the JSON of debug bundle.
type bundleAnswer struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	Node  string `json:"node"`
	agent.Manifest
}

func (a *app) bundleCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Write a file with what is needed to look for a mistake elsewhere",
		Long: "It has the recorder of the core on this host, what was recorded before because something happened that must not, the\n" +
			"timeline, status, metrics, configuration, goroutines, and a trace of the last seconds where debug.flight_seconds is set.\n" +
			"No key, no token and no value is in it: the recorder keeps how long a command is, not what it is. Names of nodes,\n" +
			"services and sessions in the timeline are. It needs no leader. The file must not exist yet, and its owner alone can read it.",
		Example: "  parley debug bundle --file a1.bundle\n  parley replay a1.bundle",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			defer a.patience("gathering what this agent knows")()
			return a.ask(cmd, mayRepeat, func(ctx context.Context) (answer, error) {
				found, err := saveBundle(file, func(w io.Writer) error { return c.SaveBundle(ctx, w) })
				return answer{value: found, table: func(w io.Writer) { bundleTable(w, found) }}, err
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "parley.bundle", "where to write it")
	return cmd
}

// saveBundle writes beside the name, which the file gets when it is whole.
func saveBundle(file string, write func(io.Writer) error) (found bundleAnswer, err error) {
	if file, err = filepath.Abs(file); err != nil {
		return found, err
	}
	part, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return found, usageError("give another name by --file, or delete it", "%s exists", file)
	} else if err != nil {
		return found, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file))
		}
	}()
	if err := errors.Join(write(part), part.Sync(), part.Close()); err != nil {
		return found, err
	}
	found.File = file
	content, err := readBundle(file)
	if err != nil {
		return found, err
	}
	found.Manifest, found.Node = content.manifest, content.manifest.Node
	info, err := os.Stat(file)
	if err == nil {
		found.Bytes = info.Size()
	}
	return found, err
}

func bundleTable(w io.Writer, found bundleAnswer) {
	row(w, "FILE", "BYTES")
	for _, f := range found.Files {
		row(w, f.Name, fmt.Sprint(f.Bytes))
	}
	for _, m := range found.Missing {
		row(w, m.Name, "not there: "+m.Reason)
	}
	row(w, fmt.Sprintf("\n%s: %d bytes", found.File, found.Bytes))
}

func (a *app) recordingsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "recordings",
		Short: "What this agent recorded because something happened that must not",
		Long: "One for each reason: a promise of the algorithm that did not hold, a function in which the core panicked, a command at\n" +
			"which it stopped, a state that was wrong. Another of the same reason is not kept. They are part of debug bundles.",
		Example: "  parley debug recordings --expect 'length==0'",
		Args:    takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			list, err := c.Recordings(ctx)
			return answer{value: list, table: func(w io.Writer) { recordingsTable(w, list) }}, err
		}),
	}
}

func recordingsTable(w io.Writer, list []client.Recording) {
	if len(list) == 0 {
		row(w, "none")
		return
	}
	row(w, "NAME", "BYTES", "AT")
	for _, r := range list {
		row(w, r.Name, fmt.Sprint(r.Bytes), instant(r.At))
	}
}

func (a *app) forgetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "forget",
		Short: "Delete what this agent recorded, once it was looked at",
		Long: "The alert heisenbug ends with it, and what happens next is kept again, also for reasons that were there. Take a bundle\n" +
			"first: what is deleted cannot be had again.",
		Example: "  parley debug bundle --file a1.bundle && parley debug forget",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			return a.ask(cmd, mayRepeat, func(ctx context.Context) (answer, error) {
				list, err := c.ForgetRecordings(ctx)
				return answer{value: list, table: func(w io.Writer) { row(w, fmt.Sprintf("%d recordings deleted", len(list))) }}, err
			})
		},
	}
}

func (a *app) replayCommand() *cobra.Command {
	var any bool
	cmd := &cobra.Command{
		Use:   "replay BUNDLE",
		Short: "Have the core do again what is recorded, and count what must not be",
		Long: "BUNDLE is the file of debug bundle, or a recording out of the data directory. The core of this program is given the\n" +
			"events that were recorded, with the answers that it got, and what it does is compared with what it did. Violations are\n" +
			"promises of the algorithm that did not hold. It needs no agent, and does the same each time. It exits with 1 when there\n" +
			"are violations, a panic, or a difference, unless --expect decides.",
		Example: "  parley replay a1.bundle -o json --expect '.violations==0'\n  parley replay a1.bundle --any-build",
		Args:    takes("BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			defer a.patience("replaying")()
			content, err := readBundle(args[0])
			if err != nil {
				return err
			}
			report, err := agent.Replay(content.recordings, any)
			if err != nil {
				return err
			}
			err = a.say(cmd, answer{value: report, table: func(w io.Writer) { replayTable(w, report) }})
			if err != nil || a.expect != "" || report.Problem == "" {
				return err
			}
			return &failure{code: exitFailed, err: errors.New(report.Problem), hint: "run: parley runbook show heisenbug"}
		},
	}
	cmd.Flags().BoolVar(&any, "any-build", false, "try what another build recorded: it may differ because the programs do")
	return cmd
}

func replayTable(w io.Writer, r agent.ReplayReport) {
	row(w, "RECORDING", "REASON", "EVENTS", "VIOLATIONS", "OUTCOME")
	for _, one := range r.Recordings {
		row(w, one.Name, one.Reason, fmt.Sprint(one.Events), fmt.Sprint(one.Violations), one.Outcome)
	}
	if f := r.First; f != nil {
		row(w, fmt.Sprintf("\nfirst: %s at event %d: %s", f.Invariant, f.Event, f.Detail))
	}
}

// bundleContent is what a command reads of a bundle.
type bundleContent struct {
	manifest   agent.Manifest
	recordings []agent.NamedRecording
}

// readBundle reads a bundle, or a recording alone.
func readBundle(path string) (content bundleContent, err error) {
	f, err := os.Open(path)
	if errors.Is(err, syscall.ENOENT) {
		return content, usageError("make one by: parley debug bundle", "there is no %s", path)
	} else if err != nil {
		return content, err
	}
	defer func() { _ = f.Close() }() // only read
	z, err := gzip.NewReader(f)
	if err != nil {
		one, err := readAlone(path)
		return bundleContent{recordings: one}, err
	}
	t, left := tar.NewReader(z), int64(agent.MaxBundle)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return content, fmt.Errorf("%s is damaged, or no debug bundle: %w", path, err)
		}
		if left -= h.Size; left < 0 {
			return content, fmt.Errorf("%s holds more than %d bytes: it is no debug bundle", path, agent.MaxBundle)
		}
		var b bytes.Buffer
		if _, err := io.CopyN(&b, t, h.Size); err != nil {
			return content, fmt.Errorf("%s is damaged: %w", path, err)
		}
		if err := content.take(h.Name, b.Bytes()); err != nil {
			return content, fmt.Errorf("%s: %w", path, err)
		}
	}
	if content.manifest.Format == 0 {
		return content, fmt.Errorf("%s has no manifest: it is no debug bundle", path)
	}
	return content, nil
}

func (b *bundleContent) take(name string, content []byte) (err error) {
	switch {
	case name == agent.BundleManifest:
		b.manifest, err = agent.ReadManifest(content)
	case filepath.Ext(name) == ".rec":
		b.recordings = append(b.recordings, agent.NamedRecording{Name: name, Content: content})
	}
	return err
}

func readAlone(path string) ([]agent.NamedRecording, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > agent.MaxBundle {
		return nil, fmt.Errorf("%s is too large for a recording", path)
	}
	content, err := os.ReadFile(path)
	return []agent.NamedRecording{{Name: filepath.Base(path), Content: content}}, err
}
