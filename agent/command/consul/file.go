package consul

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/parley-mesh/parley/agent/command"
)

// maxFileBytes bounds a configuration file, maxDepth how deep its objects nest.
const (
	maxFileBytes = 1 << 20
	maxDepth     = 8
)

// readAll merges the sources in their order: the last one wins, key by key.
func readAll(sources []source) (map[string]any, error) {
	files, err := expand(sources)
	if err != nil {
		return nil, err
	}
	tree := map[string]any{}
	for _, path := range files {
		one, err := readFile(path)
		if err != nil {
			return nil, err
		}
		merge(tree, one)
	}
	return tree, nil
}

// expand replaces directories by the files in them, by name. Files that are not configuration are passed over there.
func expand(sources []source) (files []string, err error) {
	for _, s := range sources {
		if !s.dir {
			files = append(files, s.path)
			continue
		}
		entries, err := os.ReadDir(s.path)
		if err != nil {
			return nil, fmt.Errorf("read -config-dir: %w", err)
		}
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".json" || ext == ".hcl") {
				files = append(files, filepath.Join(s.path, e.Name()))
			}
		}
	}
	if len(files) > maxFiles {
		return nil, command.UsageError("join them", "%d configuration files are more than %d", len(files), maxFiles)
	}
	return files, nil
}

func readFile(path string) (map[string]any, error) {
	if strings.HasSuffix(path, ".hcl") {
		return nil, command.UsageError("write the same as JSON", "%s: only JSON is read here", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read -config-file: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read -config-file: %w", err)
	}
	if len(raw) > maxFileBytes {
		return nil, command.UsageError("split it", "%s has more than %d bytes", path, maxFileBytes)
	}
	tree := map[string]any{}
	if strings.TrimSpace(string(raw)) == "" {
		return tree, nil
	}
	if err := json.Unmarshal(raw, &tree); err != nil {
		return nil, command.UsageError("it has to be one JSON object", "%s: %v", path, err)
	}
	if depth(tree) > maxDepth {
		return nil, command.UsageError("no key needs that", "%s nests deeper than %d", path, maxDepth)
	}
	return tree, nil
}

func depth(v any) int {
	deepest := 0
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			deepest = max(deepest, depth(x))
		}
	case []any:
		for _, x := range v {
			deepest = max(deepest, depth(x))
		}
	default:
		return 0
	}
	return deepest + 1
}

// merge lays over on top of tree. null says nothing.
func merge(tree, over map[string]any) {
	for name, value := range over {
		if value == nil {
			continue
		}
		below, isTree := tree[name].(map[string]any)
		above, isOver := value.(map[string]any)
		if isTree && isOver {
			merge(below, above)
			continue
		}
		tree[name] = value
	}
}
