package consensus

import (
	"encoding/binary"
	"slices"
)

// relay keeps this member in touch with members that it cannot reach: what it has to say to one is passed on by a third.
//
// A network can be cut so that a majority is connected and still no two of three members hear each other without the
// third. If the third cannot lead, because its log is behind, nobody can: it is the only one that a majority hears. With
// relays everybody who is connected by way of somebody is as good as connected.
//
// Each member counts whom it hears straight, and tells all others, in a note that never goes through anybody (it is the
// probe of that link as well). The note also has the lines of those that the teller hears itself, so each line goes two
// hops far. That is enough to know, of a receiver that does not hear us, who hears us and is heard by it: the hub.
//
// A route is one hub: at most two hops. There are no loops, because a frame to be passed on is taken only from the
// connection of its origin, and one that was passed on only by its receiver.
//
// The hub is trusted with delivery and nothing else. The receiver believes a frame that bears the origin's MAC, made for
// this life of the receiver (a frame to an earlier one may answer a question that it has asked again since) and not seen
// before in this life of the origin. What a hub says of links can only make frames go astray, as a hub can do anyway.
type relay struct {
	on       bool
	life     uint64 // of this process; a later one has a higher number
	told     uint64 // tick
	lines    map[uint64]linkLine
	straight map[uint64]uint64 // tick of the last frame that came straight from each
	links    map[uint64]linkTrend
	routes   map[uint64]Route
	seen     map[uint64]seenFrames // of each origin
	small    passLane
	bulk     passLane
	lead     relayLead
	counts   RelayCounts
}

// linkLine is what a member says of itself: whom it hears straight.
type linkLine struct {
	life, seq uint64
	hears     []uint64
	at        uint64 // tick at which it came to us
	straight  bool   // from the member itself
}

// linkTrend counts for how many ticks on end a receiver has said that it hears us, or that it does not.
type linkTrend struct{ good, bad uint64 }

// Route is by whom a member is reached. Life is of the receiver.
type Route struct{ Via, Life uint64 }

// How fast relays come and go, in parts of the election timeout: a link that was cut is relayed after about two, and a
// link that works again is used after four, so that one that comes and goes does not carry what it would lose.
const (
	tellLinesPerTimeout = 2
	hearsTimeouts       = 1
	lineTimeouts        = 2
	relayAfterTimeouts  = 1
	straightTimeouts    = 4
)

// beginRelay begins a life. Without a number for it, which must be above those of all earlier ones, nothing is relayed.
func (c *core) beginRelay() {
	r := &c.relay
	r.lines, r.straight, r.links = make(map[uint64]linkLine), make(map[uint64]uint64), make(map[uint64]linkTrend)
	r.routes, r.seen = make(map[uint64]Route), make(map[uint64]seenFrames)
	if !c.cfg.relay {
		return
	}
	now, err := c.cfg.asks.now() // above all that it said in earlier lives
	c.out.clockErr = err
	r.on, r.life = err == nil, uint64(now)
}

// hearStraight notes that a frame came from a member without a hub.
func (c *core) hearStraight(from uint64) {
	if _, known := c.relay.straight[from]; c.relay.on && (known || len(c.relay.straight) < maxPeers) {
		c.relay.straight[from] = c.ticks
	}
}

// ticksOf is so many election timeouts, in ticks.
func (c *core) ticksOf(timeouts int) uint64 { return uint64(timeouts * c.cfg.electionTicks) }

// tickRelay finds out who is reached by whom, tells the others whom we hear, and lets pass what waits.
func (c *core) tickRelay() {
	r := &c.relay
	if !r.on {
		return
	}
	others := c.relayPeers()
	for _, id := range sortedKeys(r.straight) {
		if c.ticks-r.straight[id] > c.ticksOf(hearsTimeouts) {
			delete(r.straight, id)
		}
	}
	for _, id := range sortedKeys(r.lines) {
		if l := r.lines[id]; c.ticks-l.at > c.ticksOf(lineTimeouts) || !slices.Contains(others, id) {
			delete(r.lines, id)
		}
	}
	changed := c.forgetRoutes(others)
	for _, id := range others {
		changed = c.judgeLink(id) || changed
	}
	if changed {
		c.out.routes, c.out.changed = true, true
	}
	every := uint64(max(1, c.cfg.electionTicks/tellLinesPerTimeout))                   //nolint:gosec // positive
	if early := uint64(c.cfg.heartbeatTicks - 1); c.ticks == c.beat && every > early { //nolint:gosec // few, and positive
		every -= early // heartbeats leave now, and the lines with them that would be due before the next
	}
	if c.ticks-r.told >= every || r.told == 0 {
		r.told = c.ticks
		body := c.encodeLines()
		for _, id := range others {
			c.tell(id, noteLines, body)
		}
	}
	c.tickRelayLead()
	c.tickPass()
}

// relayPeers are those with whom lines are exchanged: the members, or who talks to one that does not know them yet.
func (c *core) relayPeers() []uint64 {
	ids := c.members()
	if len(ids) == 0 {
		ids = sortedKeys(c.relay.straight)
	}
	ids = slices.DeleteFunc(ids, func(id uint64) bool { return id == c.cfg.id || id == 0 })
	return ids[:min(len(ids), maxPeers)]
}

func (c *core) forgetRoutes(others []uint64) (changed bool) {
	r := &c.relay
	for _, id := range sortedKeys(r.links) {
		if !slices.Contains(others, id) {
			delete(r.links, id)
		}
	}
	for _, id := range sortedKeys(r.routes) {
		if !slices.Contains(others, id) {
			delete(r.routes, id)
			changed = true
		}
	}
	return changed
}

// judgeLink decides how a member is reached, and reports whether that is news.
func (c *core) judgeLink(id uint64) (changed bool) {
	r := &c.relay
	line, known := r.lines[id]
	trend := r.links[id]
	switch {
	case !known:
		trend = linkTrend{} // nothing is known: it may be down
	case slices.Contains(line.hears, c.cfg.id):
		trend = linkTrend{good: trend.good + 1}
	default:
		trend = linkTrend{bad: trend.bad + 1}
	}
	r.links[id] = trend
	was, now := r.routes[id], Route{}
	switch {
	case !known || trend.good >= c.ticksOf(straightTimeouts):
	case was.Via != 0 && c.isHub(was.Via, line):
		now = Route{was.Via, line.life}
	case was.Via != 0 || trend.bad >= c.ticksOf(relayAfterTimeouts):
		now = c.findHub(line)
	}
	if now.Via == 0 {
		delete(r.routes, id)
	} else {
		r.routes[id] = now
	}
	return was != now
}

// findHub picks one who hears us and is heard by the member whose line it is, the zero Route if there is none.
func (c *core) findHub(line linkLine) Route {
	for _, via := range line.hears {
		if c.isHub(via, line) {
			return Route{via, line.life}
		}
	}
	return Route{}
}

func (c *core) isHub(via uint64, line linkLine) bool {
	l, known := c.relay.lines[via]
	return known && via != c.cfg.id && slices.Contains(l.hears, c.cfg.id) && slices.Contains(line.hears, via)
}

// noteLines is told straight, never by a hub: see peerQueue.tell.
const noteLines noteKind = 40

const (
	lineBytes = 8 + 8 + 8 + 1
	maxLines  = maxPeers
)

// encodeLines is our own line, then those of whom we hear.
func (c *core) encodeLines() []byte {
	r := &c.relay
	b := appendLine(nil, c.cfg.id, linkLine{life: r.life, seq: c.ticks, hears: sortedKeys(r.straight)})
	for _, id := range sortedKeys(r.lines) {
		if _, hears := r.straight[id]; hears && r.lines[id].straight {
			b = appendLine(b, id, r.lines[id])
		}
	}
	return b
}

func appendLine(b []byte, id uint64, l linkLine) []byte {
	b = binary.BigEndian.AppendUint64(b, id)
	b = binary.BigEndian.AppendUint64(b, l.life)
	b = binary.BigEndian.AppendUint64(b, l.seq)
	b = append(b, byte(len(l.hears))) //nolint:gosec // at most maxPeers
	for _, h := range l.hears {
		b = binary.BigEndian.AppendUint64(b, h)
	}
	return b
}

// hearLines takes what a peer says. About itself it is right; a line of another is taken when it is newer than ours, and
// we do not hear that one ourselves.
func (c *core) hearLines(from uint64, body []byte) error {
	r := &c.relay
	ids, lines, err := decodeLines(body)
	if err != nil || !r.on {
		return err
	}
	for i, id := range ids {
		l := lines[i]
		l.at, l.straight = c.ticks, id == from
		held, known := r.lines[id]
		newer := !known || l.life > held.life || l.life == held.life && l.seq > held.seq
		_, hear := r.straight[id]
		switch {
		case id == c.cfg.id || !known && len(r.lines) >= maxLines:
		case id == from || newer && !hear:
			r.lines[id] = l
		}
	}
	return nil
}

func decodeLines(b []byte) (ids []uint64, lines []linkLine, err error) {
	for len(b) > 0 {
		if len(b) < lineBytes || len(ids) == maxLines {
			return nil, nil, errNote
		}
		id, n := binary.BigEndian.Uint64(b), int(b[24])
		l := linkLine{life: binary.BigEndian.Uint64(b[8:]), seq: binary.BigEndian.Uint64(b[16:])}
		b = b[lineBytes:]
		if n > maxPeers || len(b) < 8*n {
			return nil, nil, errNote
		}
		for l.hears = slices.Grow(l.hears, n); n > 0; n-- {
			l.hears, b = append(l.hears, binary.BigEndian.Uint64(b)), b[8:]
		}
		ids, lines = append(ids, id), append(lines, l)
	}
	return ids, lines, nil
}
