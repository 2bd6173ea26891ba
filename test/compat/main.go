// Command compat runs the own tests of an existing client, which nobody here wrote, against this parley:
//
//	test/compat/run         all tests of tests.txt that have to pass; fails if one does not, or is skipped
//	test/compat/run -write  the same, and writes what passed into docs/compatibility.md
//
// It builds parley, puts it into PATH as consul, builds the client's test binary, and before anything else measures how
// long a start takes. Without -write it also fails when the table in docs/compatibility.md is not what it would write.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
)

const (
	client  = "github.com/hashicorp/consul/api"
	listing = "tests.txt"
	table   = "../../docs/compatibility.md"
)

func main() {
	write := flag.Bool("write", false, "write the table of docs/compatibility.md")
	only := flag.String("only", "", "run only the tests whose name matches this, and leave the table alone")
	program := flag.String("parley", "", "the program to test (default: build it)")
	verbose := flag.Bool("v", false, "print all that the tests say")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, options{write: *write, only: *only, program: *program, verbose: *verbose}); err != nil {
		fmt.Fprintln(os.Stderr, "compat:", err)
		os.Exit(1)
	}
}

type options struct {
	write, verbose bool
	only, program  string
}

func run(ctx context.Context, o options) error {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "c-") // short: sockets lie below it
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	s, err := build(ctx, dir, o.program)
	if err != nil {
		return err
	}
	tests, err := s.list(ctx)
	if err != nil {
		return err
	}
	if err := s.measureStart(ctx); err != nil {
		return err
	}
	results, err := s.run(ctx, tests.required(only), o.verbose)
	if err != nil {
		return err
	}
	failed := results.report(os.Stdout)
	if o.only != "" {
		return failed
	}
	return errors.Join(failed, updateTable(table, tests.table(results), o.write))
}

// build makes what is run, all of it in dir.
func build(ctx context.Context, dir, program string) (*suite, error) {
	s := &suite{dir: dir, tests: filepath.Join(dir, "api.test")}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return nil, err
	}
	if program == "" {
		program = filepath.Join(dir, "parley")
		build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/agent")
		build.Dir, build.Env, build.Stderr = "../..", append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
		if err := build.Run(); err != nil {
			return nil, fmt.Errorf("build parley: %w", err)
		}
	}
	program, err := filepath.Abs(program)
	if err != nil {
		return nil, err
	}
	s.consul = filepath.Join(bin, "consul")
	if err := os.Symlink(program, s.consul); err != nil {
		return nil, err
	}
	compile := exec.CommandContext(ctx, "go", "test", "-c", "-o", s.tests, client)
	compile.Stderr = os.Stderr
	if err := compile.Run(); err != nil {
		return nil, fmt.Errorf("build the client's tests: %w", err)
	}
	s.env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), "TMPDIR="+dir)
	return s, nil
}
