package sim

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/parley-mesh/parley/storage"
)

// damages are drawn as other faults are. What is spoiled goes by turns, so that a hundred seeds have it all.
var damages = []fault{{"damage", func(c *cluster) { c.damageOne(5) }}}

// damageKind is one way to spoil files of a host that is down. It reports whether there was anything to spoil.
type damageKind struct {
	name string
	do   func(c *cluster, h *host) bool
}

var damageKinds = []damageKind{
	{"damage: flip of segment", flipOf("segment")},
	{"damage: 512 bytes zeroed", func(c *cluster, h *host) bool { return c.zeroAmid(h, 512) }},
	{"damage: flip of anchor", flipOf("anchor")},
	{"damage: 4096 bytes zeroed", func(c *cluster, h *host) bool { return c.zeroAmid(h, page) }},
	{"damage: flip of manifest", flipOf("manifest")},
	{"damage: zeroed to the end", (*cluster).zeroToEnd},
	{"damage: flip of chunk", flipOf("chunk")},
	{"damage: garbage tail", (*cluster).garbageTail},
	{"damage: lost file of segment", lossOf("segment")},
	{"damage: header of the last segment", (*cluster).spoilHeader},
	{"damage: lost file of anchor", lossOf("anchor")},
	{"damage: lost file of manifest", lossOf("manifest")},
	{"damage: lost file of chunk", lossOf("chunk")},
}

// damageOne ends a host and spoils one of its files, as soon as the core can afford that.
func (c *cluster) damageOne(tries int) {
	h := c.anyHost()
	if h == nil || !c.mayLose(h) {
		if tries > 0 {
			c.later(150*time.Millisecond, func() { c.damageOne(tries - 1) })
		}
		return
	}
	h.crash(storage.KeepUnsynced)
	h.damaged = true
	for range damageKinds {
		kind := damageKinds[c.damages%len(damageKinds)]
		c.damages++
		if kind.do(c, h) {
			c.note(kind.name)
			c.trace("%s: %s", h.name, kind.name)
			break
		}
	}
	c.after(c.upTo(time.Second), func() { c.boot(h) })
}

// filesOf lists a host's files of a kind that are in use.
func (h *host) filesOf(kind string) (files []string) {
	for _, path := range h.disk.Paths() {
		name := filepath.Base(path)
		if fileKind(path) == kind && !strings.HasPrefix(name, "spare") && !strings.HasPrefix(name, "torn") && !strings.HasPrefix(name, "damaged") {
			files = append(files, path)
		}
	}
	return files
}

func fileKind(path string) string {
	switch {
	case strings.Contains(path, "chunks"):
		return "chunk"
	case strings.HasSuffix(path, ".manifest"):
		return "manifest"
	case strings.HasSuffix(path, ".wal"):
		return "segment"
	}
	return filepath.Base(path)
}

func (c *cluster) anyFile(h *host, kind string) (string, bool) {
	files := h.filesOf(kind)
	if len(files) == 0 {
		return "", false
	}
	return files[c.rnd.IntN(len(files))], true
}

func flipOf(kind string) func(*cluster, *host) bool {
	return func(c *cluster, h *host) bool {
		path, ok := c.anyFile(h, kind)
		if !ok || h.disk.Size(path) == 0 {
			return false
		}
		h.disk.Flip(path, c.rnd.Int64N(h.disk.Size(path)), byte(1<<c.rnd.IntN(8)))
		return true
	}
}

func lossOf(kind string) func(*cluster, *host) bool {
	return func(c *cluster, h *host) bool {
		path, ok := c.anyFile(h, kind)
		return ok && h.disk.Remove(path) == nil
	}
}

// zeroAmid zeroes a part of a frame that others follow.
func (c *cluster) zeroAmid(h *host, size int) bool {
	path, data, last := c.anyPages(h)
	if last < 2 {
		return false
	}
	at := (1 + c.rnd.IntN(last-1)) * page
	if at += c.rnd.IntN(page/size) * size; zero(data[at : at+size]) {
		at -= at % page // the rest of the page is empty
	}
	return h.overwrite(path, at, make([]byte, size))
}

// zeroToEnd zeroes a segment from some frame on. What the anchor does not cover yet leaves no trace on any disk if it is
// zeroed whole (storage/FORMAT.md), so at least a dozen frames go of the newest segment.
func (c *cluster) zeroToEnd(h *host) bool {
	path, data, last := c.anyPages(h)
	if newest, _, _ := c.newestPages(h); path == newest {
		last -= 12
	}
	if last < 1 {
		return false
	}
	from := (1 + c.rnd.IntN(last)) * page
	return h.overwrite(path, from, make([]byte, len(data)-from))
}

// garbageTail writes anything behind the last frame.
func (c *cluster) garbageTail(h *host) bool {
	path, data, last := c.newestPages(h)
	room := len(data)/page - 2 - last
	if room < 1 {
		return false
	}
	garbage := make([]byte, page*(1+c.rnd.IntN(min(room, 3))))
	for i := range garbage {
		garbage[i] = byte(c.rnd.Uint32())
	}
	return h.overwrite(path, (last+1)*page, garbage)
}

// spoilHeader flips a byte of the newest segment's header.
func (c *cluster) spoilHeader(h *host) bool {
	path, data, _ := c.newestPages(h)
	if len(data) == 0 {
		return false
	}
	h.disk.Flip(path, int64(c.rnd.IntN(176)), byte(1<<c.rnd.IntN(8)))
	return true
}

// overwrite writes past the program.
func (h *host) overwrite(path string, offset int, data []byte) bool {
	f, err := h.disk.Open(path)
	if err != nil {
		return false
	}
	if _, err := f.WriteAt(data, int64(offset)); err != nil {
		return false
	}
	return f.Sync() == nil
}

const page = 4096

// newestPages returns the host's newest segment, and its last page with anything of a frame.
func (c *cluster) newestPages(h *host) (newest string, data []byte, last int) {
	files := h.filesOf("segment")
	if len(files) == 0 {
		return "", nil, 0
	}
	newest = files[len(files)-1] // they are sorted
	data, last = h.pages(newest)
	return newest, data, last
}

// anyPages is the same for any segment.
func (c *cluster) anyPages(h *host) (path string, data []byte, last int) {
	path, ok := c.anyFile(h, "segment")
	if !ok {
		return "", nil, 0
	}
	data, last = h.pages(path)
	return path, data, last
}

func (h *host) pages(path string) (data []byte, last int) {
	f, err := h.disk.Open(path)
	if err != nil {
		return nil, 0
	}
	data = make([]byte, h.disk.Size(path))
	if _, err := f.ReadAt(data, 0); err != nil {
		return nil, 0
	}
	last = len(data)/page - 2 // the last page is a copy of the header
	for last > 0 && zero(data[last*page:(last+1)*page]) {
		last--
	}
	return data, last
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
