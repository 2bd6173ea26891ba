package state

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckEntryName returns nil for a name that an entry may have. The rules are those of nodes.
func CheckEntryName(name string) error {
	if err := CheckNodeName(name); err != nil {
		return fmt.Errorf("entry: %w", err)
	}
	return nil
}

func (c EntryDelete) check() error { return CheckEntryName(c.Name) }

func (c EntrySet) check() error {
	e := c.Entry
	for _, err := range []error{
		CheckEntryName(e.Name), CheckWorkloadID(e.SPIFFEID), CheckSelectors(e.Selectors), checkEntryNodes(e.Nodes), checkFederates(e),
		checkLine("service name", e.Service, MaxServiceNameBytes),
		checkSeconds("the certificate's", e.TTLSeconds, MaxEntryTTLSeconds), checkSeconds("the token's", e.JWTTTLSeconds, MaxEntryJWTSeconds),
		checkLine("hint", e.Hint, MaxEntryHintBytes), checkLine("owner", e.Owner, MaxEntryOwnerBytes),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkSeconds(what string, seconds, most uint64) error {
	if seconds != 0 && (seconds < MinEntryTTLSeconds || seconds > most) {
		return fmt.Errorf("%s TTL of %d s: use %d to %d s, or 0 for the default", what, seconds, MinEntryTTLSeconds, most)
	}
	return nil
}

func checkEntryNodes(nodes []string) error {
	if err := checkSorted("nodes", nodes, MaxEntryNodes); err != nil {
		return err
	}
	for _, node := range nodes {
		if err := CheckNodeName(node); err != nil {
			return err
		}
	}
	return nil
}

func checkFederates(e Entry) error {
	if err := checkSorted("trust domains to federate with", e.FederatesWith, MaxEntryFederates); err != nil {
		return err
	}
	for _, td := range e.FederatesWith {
		if err := checkTrustDomain(td); err != nil {
			return err
		}
	}
	return nil
}

// checkSorted wants a list in order, each once: equal lists are equal bytes.
func checkSorted(what string, list []string, most int) error {
	if len(list) > most {
		return fmt.Errorf("%d %s: the limit is %d", len(list), what, most)
	}
	for i := 1; i < len(list); i++ {
		if list[i-1] >= list[i] {
			return fmt.Errorf("the %s are not sorted, or %q is there twice", what, list[i])
		}
	}
	return nil
}

// cutSPIFFEID takes an ID apart; the path has its leading slash, or is empty.
func cutSPIFFEID(id string) (td, path string, ok bool) {
	rest, ok := strings.CutPrefix(id, spiffeScheme)
	if !ok {
		return "", "", false
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[:i], rest[i:], true
	}
	return rest, "", true
}

// CheckWorkloadID returns nil for a SPIFFE ID that a program may have: by the SPIFFE standard, with a path, and not one of
// those that mean an agent or an operator.
func CheckWorkloadID(id string) error {
	if len(id) > MaxSPIFFEIDBytes {
		return fmt.Errorf("the SPIFFE ID %.80q... has %d bytes: the limit is %d", id, len(id), MaxSPIFFEIDBytes)
	}
	td, path, ok := cutSPIFFEID(id)
	if !ok {
		return fmt.Errorf("the SPIFFE ID %q does not begin with %s", id, spiffeScheme)
	}
	if err := checkTrustDomain(td); err != nil {
		return fmt.Errorf("the SPIFFE ID %q: %w", id, err)
	}
	if path == "" {
		return fmt.Errorf("the SPIFFE ID %q has no path, and stands for the trust domain as a whole: add one, like /svc/web", id)
	}
	if err := checkSPIFFEPath(path); err != nil {
		return fmt.Errorf("the SPIFFE ID %q: %w", id, err)
	}
	if path == "/parley" || strings.HasPrefix(path, "/parley/") {
		return fmt.Errorf("the SPIFFE ID %q: paths below /parley are for agents and operators, who are identified in other ways: use another one, like /svc/web", id)
	}
	return nil
}

func checkTrustDomain(td string) error {
	if td == "" || len(td) > MaxTrustBytes {
		return fmt.Errorf("the trust domain %.80q has %d bytes: use 1 to %d", td, len(td), MaxTrustBytes)
	}
	for i := range len(td) {
		if !nodeNameByte(td[i]) {
			return fmt.Errorf("the trust domain %q contains %q: use a-z, 0-9, '.', '_' and '-'", td, td[i])
		}
	}
	return nil
}

func checkSPIFFEPath(path string) error {
	for segment := range strings.SplitSeq(path[1:], "/") {
		switch segment {
		case "":
			return errors.New("an empty segment, or a slash at the end, in the path")
		case ".", "..":
			return fmt.Errorf("the path has the segment %q", segment)
		}
		for i := range len(segment) {
			c := segment[i]
			if !nodeNameByte(c) && (c < 'A' || c > 'Z') {
				return fmt.Errorf("the path contains %q: use a-z, A-Z, 0-9, '.', '_' and '-'", c)
			}
		}
	}
	return nil
}

// selectorKinds are what attestation can find, with the check of the value, whether a process has only one of it, and
// whether the kernel keeps a process within it: what a process can choose itself, such as its program, is no boundary.
var selectorKinds = map[string]struct {
	check    func(value string) error
	single   bool
	boundary bool
}{
	"uid":    {checkNumber, true, true},
	"gid":    {checkNumber, true, false},
	"group":  {checkNumber, false, false},
	"unit":   {checkUnit, false, true},
	"cgroup": {checkAbsolute, false, true},
	"path":   {checkAbsolute, true, false},
	"sha256": {checkSHA256, true, false},
	// Of a unit, and changes whenever that is started: beside the unit, whose boundary it is.
	"invocation": {checkInvocation, true, false},
}

// CheckSelectors returns nil for the selectors that an entry may have: sorted, each of a known kind with a value that can be
// found, and one of them a boundary that the kernel keeps.
func CheckSelectors(selectors []string) error {
	if err := checkSorted("selectors", selectors, MaxEntrySelectors); err != nil {
		return err
	}
	bounded, before := false, ""
	for _, selector := range selectors {
		kind, value, _ := strings.Cut(selector, ":")
		spec, known := selectorKinds[kind]
		switch {
		case len(selector) > MaxSelectorBytes:
			return fmt.Errorf("the selector %.40q... has %d bytes: the limit is %d", selector, len(selector), MaxSelectorBytes)
		case !known:
			return fmt.Errorf("the selector %q is of no known kind: use KIND:VALUE with uid, gid, group, unit, invocation, cgroup, path or sha256", selector)
		case spec.single && kind == before:
			return fmt.Errorf("two selectors of the kind %s can never both be true: make one entry for each", kind)
		}
		if err := spec.check(value); err != nil {
			return fmt.Errorf("the selector %q: %w", selector, err)
		}
		bounded, before = bounded || spec.boundary, kind
	}
	if !bounded {
		return errors.New("no selector is a uid, unit or cgroup: what is left can be had by any user who runs the same program, so add one of them")
	}
	return nil
}

// Boundary is the first selector of an entry that the kernel keeps processes within. Every entry has one.
func (e Entry) Boundary() string {
	i := slices.IndexFunc(e.Selectors, func(s string) bool {
		kind, _, _ := strings.Cut(s, ":")
		return selectorKinds[kind].boundary
	})
	if i < 0 {
		return ""
	}
	return e.Selectors[i]
}

func checkNumber(value string) error {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != value {
		return errors.New("the value is not a number of a user or group, such as 1000")
	}
	return nil
}

func checkUnit(value string) error {
	if !strings.Contains(value, ".") || strings.ContainsAny(value, "/ ") || !printable(value) {
		return errors.New("the value is not the name of a unit, such as web.service")
	}
	return nil
}

func checkAbsolute(value string) error {
	if !strings.HasPrefix(value, "/") || !printable(value) || strings.Contains(value+"/", "/../") || strings.Contains(value+"/", "/./") {
		return errors.New("the value is not a path from the root without . and .. in it")
	}
	return nil
}

func checkSHA256(value string) error {
	if !checkHex(value, 64) {
		return errors.New("the value is not a SHA-256: 64 digits of 0-9 and a-f")
	}
	return nil
}

func checkInvocation(value string) error {
	if !checkHex(value, 32) {
		return errors.New("the value is not the id of a unit's run: 32 digits of 0-9 and a-f, as systemctl show -P InvocationID UNIT prints them")
	}
	return nil
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
