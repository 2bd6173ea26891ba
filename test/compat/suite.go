package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	parallel = "4"
	limit    = 210 * time.Second // for all tests together
)

// suite is what build made.
type suite struct {
	dir, consul, tests string
	env                []string
}

// list asks the test binary what it has.
func (s *suite) list(ctx context.Context) (list, error) {
	out, err := exec.CommandContext(ctx, s.tests, "-test.list", ".*").Output()
	if err != nil {
		return nil, fmt.Errorf("list the client's tests: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Test") {
			names = append(names, strings.TrimSpace(line))
		}
	}
	return readList(names)
}

// results says how each test that had to pass ended, in their order.
type results struct {
	names  []string
	how    map[string]string // PASS, FAIL or SKIP; nothing for one that did not run to its end
	output []byte
	took   time.Duration
}

// run runs the tests by name. A test that fails is a result and no error.
func (s *suite) run(ctx context.Context, names []string, verbose bool) (*results, error) {
	if len(names) == 0 {
		return nil, errors.New("no test has that name")
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, s.tests, "-test.v", "-test.parallel", parallel, "-test.timeout", limit.String(),
		"-test.run", "^("+strings.Join(names, "|")+")$")
	cmd.Env, cmd.Dir, cmd.Stdout = s.env, s.dir, &out
	if verbose {
		cmd.Stdout = io.MultiWriter(&out, os.Stdout)
	}
	cmd.Stderr = cmd.Stdout
	began := time.Now()
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return nil, fmt.Errorf("run the client's tests: %w", err)
	}
	return &results{names: names, how: verdicts(out.Bytes()), output: out.Bytes(), took: time.Since(began)}, ctx.Err()
}

var verdict = regexp.MustCompile(`(?m)^--- (PASS|FAIL|SKIP): (\S+) \(`)

// verdicts reads how each top-level test ended.
func verdicts(output []byte) map[string]string {
	how := map[string]string{}
	for _, match := range verdict.FindAllSubmatch(output, -1) {
		how[string(match[2])] = string(match[1])
	}
	return how
}

func (r *results) passed(name string) bool { return r.how[name] == "PASS" }

// report prints each test, and what the tests said when one did not pass, which is an error.
func (r *results) report(w io.Writer) error {
	var failed []string
	for _, name := range r.names {
		how := r.how[name]
		if how == "" {
			how = "NOT RUN"
		}
		fmt.Fprintf(w, "%-8s %s\n", how, name)
		if how != "PASS" {
			failed = append(failed, name)
		}
	}
	fmt.Fprintf(w, "%d of %d tests of the client pass, in %s\n", len(r.names)-len(failed), len(r.names), r.took.Round(time.Second))
	if len(failed) == 0 {
		return nil
	}
	for _, name := range failed {
		fmt.Fprintf(w, "\n=== %s\n%s", name, said(r.output, name))
	}
	return fmt.Errorf("%d tests did not pass: %s", len(failed), strings.Join(failed, ", "))
}

// said is the part of the output that belongs to one test: it switches between tests at lines that say so.
func said(output []byte, name string) string {
	var b strings.Builder
	mine := false
	for line := range strings.Lines(string(output)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "===" && !strings.Contains(fields[2], "/") {
			mine = fields[2] == name
			continue
		}
		if mine || strings.HasPrefix(line, "--- FAIL: "+name+" ") {
			b.WriteString(line)
		}
	}
	lines := strings.SplitAfter(b.String(), "\n")
	return strings.Join(slices.Clip(lines[max(0, len(lines)-120):]), "")
}
