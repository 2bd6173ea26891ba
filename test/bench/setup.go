package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/parley-mesh/parley/test/bench/report"
)

const etcdModule = "go.etcd.io/etcd/server/v3"

// prepare builds what is run and notes what this machine is. It expects to run in its module's directory.
func prepare(ctx context.Context, o options, dir string) (*bench, error) {
	w := &work{dir: dir, parley: o.parley, etcd: o.etcd}
	var err error
	if w.parley, err = program(ctx, o.parley, dir, "parley", "../..", "./cmd/agent"); err != nil {
		return nil, err
	}
	if !o.own {
		if w.etcd, err = program(ctx, o.etcd, dir, "etcd", ".", etcdModule); err != nil {
			return nil, err
		}
	}
	b := newBench(o, w)
	if b.clients, err = numbers(o.clients); err != nil {
		return nil, err
	}
	b.result.About, err = about(ctx, b, dir)
	return b, err
}

// numbers reads a list of numbers of clients.
func numbers(list string) (all []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 4096 {
			return nil, fmt.Errorf("-clients %s: %q is no number from 1 to 4096", list, text)
		}
		all = append(all, n)
	}
	return all, nil
}

// program is the absolute path of one that is given, or of one that is built.
func program(ctx context.Context, given, dir, name, from, what string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	fmt.Fprintf(os.Stderr, "building %s\n", name)
	out := filepath.Join(dir, name)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, what)
	build.Dir, build.Env, build.Stderr = from, append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return out, nil
}

func about(ctx context.Context, b *bench, dir string) (report.About, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return report.About{}, err
	}
	commit, err := say(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
	if err != nil {
		return report.About{}, err
	}
	version := "none"
	if !b.own {
		if version, err = say(ctx, b.work.etcd, "--version"); err != nil {
			return report.About{}, err
		}
	}
	disk, err := fileSystem(dir)
	return report.About{
		At: time.Now(), Machine: machine(), Kernel: unix.ByteSliceToString(name.Release[:]), Go: runtime.Version(), Disk: disk,
		Parley: commit, Etcd: strings.TrimPrefix(firstLine(version), "etcd Version: "),
		How: fmt.Sprintf("Values of %d bytes, %s keys, %s a cell, %d connections for etcd's clients",
			valueBytes, "10,000", b.span, *etcdConnections),
	}, err
}

func say(ctx context.Context, argv ...string) (string, error) {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output() //nolint:gosec // what this program chose
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// machine is what the kernel says of the processors and the memory.
func machine() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Sprintf("%d cores of %s", runtime.NumCPU(), model)
	}
	return fmt.Sprintf("%d cores of %s, %d GiB", runtime.NumCPU(), model, (info.Totalram*uint64(info.Unit)+1<<29)>>30)
}

// fileSystem names the type of the one that holds dir.
func fileSystem(dir string) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", err
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.TMPFS_MAGIC: "tmpfs, which syncs nothing",
	}
	if name, ok := names[fs.Type]; ok {
		return name, nil
	}
	return fmt.Sprintf("a file system of type %#x", fs.Type), nil
}
