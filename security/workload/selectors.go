package workload

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// The kinds of selectors. Which of them a kernel boundary protects is for the reader of entries to judge: another program of
// the same user may debug a process, and so be whatever its path and hash say.
const (
	KindUID    = "uid"        // effective user
	KindGID    = "gid"        // effective group
	KindGroup  = "group"      // a supplementary group
	KindPath   = "path"       // of the program's file, as this agent sees it
	KindSHA256 = "sha256"     // of the program's file, in hexadecimal
	KindCgroup = "cgroup"     // path below the root of cgroups
	KindUnit   = "unit"       // of systemd, from the cgroup
	KindRun    = "invocation" // the unit's run, as systemd says, in hexadecimal
)

// selector joins a kind and a value.
func selector(kind, value string) Selector { return Selector(kind + ":" + value) }

// owner is what /proc/PID/status says about whom a process runs as.
type owner struct {
	uid, gid uint32 // effective
	groups   []uint32
}

// maxGroups is how many supplementary groups are read: the kernel's own limit.
const maxGroups = 65536

// parseStatus reads /proc/PID/status.
func parseStatus(text []byte) (owner, error) {
	var c owner
	var uid, gid bool
	for line := range bytes.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), ":")
		fields := strings.Fields(value)
		var err error
		switch key {
		case "Uid":
			c.uid, err = effective(fields)
			uid = true
		case "Gid":
			c.gid, err = effective(fields)
			gid = true
		case "Groups":
			c.groups, err = parseNumbers(fields)
		}
		if err != nil {
			return owner{}, fmt.Errorf("line %s of the process's status: %w", key, err)
		}
	}
	if !uid || !gid {
		return owner{}, fmt.Errorf("the process's status has no user or no group")
	}
	return c, nil
}

// effective is the second of real, effective, saved and file system id.
func effective(fields []string) (uint32, error) {
	if len(fields) != 4 {
		return 0, fmt.Errorf("%d ids, want 4", len(fields))
	}
	n, err := strconv.ParseUint(fields[1], 10, 32)
	return uint32(n), err //nolint:gosec // 32 bits were parsed
}

func parseNumbers(fields []string) ([]uint32, error) {
	if len(fields) > maxGroups {
		return nil, fmt.Errorf("%d groups, at most %d", len(fields), maxGroups)
	}
	numbers := make([]uint32, len(fields))
	for i, field := range fields {
		n, err := strconv.ParseUint(field, 10, 32)
		if err != nil {
			return nil, err
		}
		numbers[i] = uint32(n) //nolint:gosec // 32 bits were parsed
	}
	return numbers, nil
}

// parseCgroup returns a process's path from /proc/PID/cgroup: of the unified hierarchy, or where that is not in use of
// systemd's own. "" when there is none, or it is outside of what this agent sees.
func parseCgroup(text []byte) string {
	var unified, systemd string
	for line := range bytes.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") || strings.HasPrefix(parts[2], "/..") {
			continue
		}
		switch {
		case parts[0] == "0" && parts[1] == "":
			unified = parts[2]
		case parts[1] == "name=systemd":
			systemd = parts[2]
		}
	}
	if systemd != "" && (unified == "" || unified == "/") {
		return systemd
	}
	return unified
}

// unitTypes are the kinds of units that hold processes.
var unitTypes = []string{".service", ".scope", ".socket", ".mount", ".swap"}

// unitOf returns the system's unit that a cgroup belongs to: the first part of its path that is no slice. What comes below is
// delegated to the unit, whose user may name it as he likes: the units of a user's own manager are below user@UID.service.
func unitOf(cgroup string) string {
	unit, _ := unitIn(cgroup)
	return unit
}

// unitIn also returns the cgroup of the unit as a whole.
func unitIn(cgroup string) (unit, whole string) {
	for part := range strings.SplitSeq(strings.TrimPrefix(cgroup, "/"), "/") {
		whole += "/" + part
		name := strings.TrimPrefix(part, "_") // how systemd escapes names that the kernel has a meaning for
		if strings.HasSuffix(name, ".slice") {
			continue
		}
		for _, suffix := range unitTypes {
			if strings.HasSuffix(name, suffix) && len(name) > len(suffix) {
				return name, whole
			}
		}
		return "", ""
	}
	return "", ""
}
