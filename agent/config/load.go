package config

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

// Override sets one key from somewhere else than the file, usually a flag.
type Override struct {
	Key    string // as in the file, with its section: "mesh.bind"
	Value  string // as text; a list is separated by commas
	Source string // how the user wrote it, for messages: "--bind"; empty: the key
}

// Load reads the file at path (none when path is empty) over the defaults, applies the overrides in
// order, fills in what depends on the host and checks the result. A file that cannot be read is an
// ordinary error; everything wrong with its content or the overrides is one *ProblemsError.
func Load(path string, overrides ...Override) (Config, error) {
	c := Default()
	p := problems{path: path}
	if path != "" {
		text, err := readLimited(path)
		if err != nil {
			return Config{}, &unreadableError{fmt.Errorf("read configuration: %w", err)}
		}
		c.decode(text, &p)
	}
	for _, o := range overrides {
		c.override(o, &p)
	}
	c.applyProfile(overrides, &p)
	c.complete(systemHost())
	c.check(&p)
	return c, p.err()
}

// Validate checks a Config that was not made by Load. It returns nil or a *ProblemsError.
func (c Config) Validate() error {
	var p problems
	c.check(&p)
	return p.err()
}

func (c *Config) check(p *problems) {
	for _, f := range fields(c) {
		if p.has(f.key) {
			continue // its value could not be read; a second complaint would only confuse
		}
		if problem := f.check(); problem != nil {
			problem.Key = f.key
			p.add(*problem)
		}
	}
	if c.DataDir == "" && !p.has("data_dir") {
		p.add(Problem{
			Key: "data_dir", Message: "there is no default: neither HOME nor XDG_STATE_HOME is an absolute path",
			Hint: "give --data-dir DIR",
		})
	}
	c.checkTimeScale(p)
	c.checkSource(p)
	c.checkAttest(p)
}

// checkTimeScale keeps a lab's haste out of clusters: alerts would fire and end before anybody looked.
func (c *Config) checkTimeScale(p *problems) {
	addr, err := netip.ParseAddrPort(c.Mesh.Bind)
	if c.Ops.TimeScale > 1 && err == nil && !addr.Addr().IsLoopback() {
		p.add(Problem{
			Key: "ops.time_scale", Message: "above 1 it is for labs, whose mesh.bind is a loopback address",
			Hint: "leave ops.time_scale at 1",
		})
	}
}

func (c *Config) decode(text string, p *problems) {
	var doc map[string]any
	if _, err := toml.Decode(text, &doc); err != nil {
		p.add(Problem{Message: syntaxMessage(err)})
		return
	}
	byKey := map[string]field{}
	for _, f := range fields(c) {
		byKey[f.key] = f
	}
	decodeTable("", doc, byKey, p)
}

// decodeTable assigns a table's values, and reports unknown keys and values of the wrong type. Keys are
// visited in order so that the report is stable.
func decodeTable(prefix string, table map[string]any, byKey map[string]field, p *problems) {
	names := make([]string, 0, len(table))
	for name := range table {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		key, value := prefix+name, table[name]
		f, known := byKey[key]
		sub, isTable := value.(map[string]any)
		switch {
		case known:
			if err := f.set(value); err != nil {
				p.add(Problem{Key: key, Message: err.Error()})
			}
		case isTable && isSection(key, byKey):
			decodeTable(key+".", sub, byKey, p)
		default:
			p.add(unknownKey(key, isTable, byKey))
		}
	}
}

func isSection(key string, byKey map[string]field) bool {
	for k := range byKey {
		if strings.HasPrefix(k, key+".") {
			return true
		}
	}
	return false
}

func unknownKey(key string, isTable bool, byKey map[string]field) Problem {
	candidates := make([]string, 0, len(byKey))
	for k := range byKey {
		if section, _, nested := strings.Cut(k, "."); isTable {
			if nested {
				candidates = append(candidates, section)
			}
			continue
		}
		candidates = append(candidates, k)
	}
	problem := Problem{Key: key, Message: "unknown key", Hint: "`parley config default` prints every key with its default"}
	if isTable {
		problem.Message = "unknown section"
	}
	if near := Nearest(key, candidates); near != "" {
		problem.Message += fmt.Sprintf(", did you mean %s?", near)
	}
	return problem
}

func (c *Config) override(o Override, p *problems) {
	name := o.Source
	if name == "" {
		name = o.Key
	}
	byKey := map[string]field{}
	for _, f := range fields(c) {
		byKey[f.key] = f
	}
	f, ok := byKey[o.Key]
	if !ok {
		p.add(unknownKey(o.Key, false, byKey))
		return
	}
	if err := f.parse(o.Value); err != nil {
		p.add(Problem{Key: name, Message: err.Error()})
		return
	}
	p.named(o.Key, name)
}

// unreadableError is a configuration file that could not be read.
type unreadableError struct{ error }

func (e *unreadableError) Unwrap() error { return e.error }

// Hint says what to do.
func (e *unreadableError) Hint() string {
	return "`parley config default` prints a file with every key; without --config the defaults hold"
}

func syntaxMessage(err error) string {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return fmt.Sprintf("line %d: %s", parse.Position.Line, parse.Message)
	}
	return err.Error()
}

func readLimited(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxFileBytes {
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxFileBytes)
	}
	return string(data), nil
}
