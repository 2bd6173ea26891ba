package consensus

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// A recording begins in the middle of a core's life, so it begins with all that the core remembers, what raft remembers
// included. Raft has no way to give that out, nor to take it back, and neither has the core, whose memory is forty structs.
// So they are walked as they are: field by field, and where two point to the same that may change, they do again. What cannot be written down
// is left as it is where it is read: functions, loggers, and raft's way to the log. Raft's two functions say which role it is
// in; what is read into is first brought into that role by events, see inRole.
//
// Whatever the walk does not know is an error, so that a new version of raft turns the recorder off and a test red, and
// nothing else. Commands are left out as everywhere in a recording.

// walk writes or reads memory.
type walk struct {
	tape
	log     *memLog
	seen    map[unsafe.Pointer]uint64 // by the writer: numbers of what was met
	targets []reflect.Value           // by the reader: pointers by number
}

// state is all that a recording begins with.
type recordedState struct {
	core                  *core
	tasks                 map[uint64]*applyTask   // with the applier
	installs              map[uint64]*installTask // with the fetcher
	events                uint64
	nextTask, nextInstall uint64
	past                  packedLog // of the writer
	nextRequest           uint64
	asks                  byte // which functions there are
	role                  raft.StateType
}

// Which functions a core has.
const (
	asksSign = 1 << iota
	asksChain
	asksRare
	asksHeld
	asksAbstain
)

func asksBits(cfg *coreConfig) (bits byte) {
	for i, has := range []bool{cfg.asks.sign != nil, cfg.chain != nil, cfg.rare != nil, cfg.held != nil, cfg.abstain != nil} {
		if has {
			bits |= 1 << i
		}
	}
	return bits
}

// writeState appends the state to b.
func writeState(b []byte, s *recordedState) (written []byte, err error) {
	w := &walk{tape: tape{b: b}, log: s.core.log, seen: make(map[unsafe.Pointer]uint64)}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the state of the core cannot be written down: %v", p)
		}
	}()
	s.asks, s.role = asksBits(&s.core.cfg), s.core.rn.BasicStatus().RaftState
	w.state(s)
	return w.b, w.err
}

// readState is the inverse; the core asks nothing yet.
func readState(b []byte) (s *recordedState, err error) {
	defer func() {
		if p := recover(); p != nil {
			s, err = nil, fmt.Errorf("%w: its state: %v", errTape, p)
		}
	}()
	w := &walk{tape: tape{b: b, reading: true}, log: &memLog{}}
	s = &recordedState{core: &core{log: w.log}}
	w.state(s)
	if w.err == nil && w.at != len(w.b) {
		w.fail("%d bytes too many", len(w.b)-w.at)
	}
	return s, w.err
}

func (w *walk) state(s *recordedState) {
	c := s.core
	role := uint64(s.role)
	w.uint(&role)
	s.role = raft.StateType(role)
	w.byte(&s.asks)
	for _, v := range []*uint64{&s.events, &s.nextTask, &s.nextInstall, &s.nextRequest} {
		w.uint(v)
	}
	w.value(reflect.ValueOf(&c.cfg).Elem())
	if w.reading && w.err == nil {
		c.cfg.logger = silent{}
		c.rn, w.err = inRole(&c.cfg, w.log, s.role)
	}
	if w.err != nil {
		return
	}
	w.memory(w.log, s)
	w.value(reflect.ValueOf(c.rn).Elem())
	w.value(reflect.ValueOf(c).Elem())
	tasks, installs := sortedKeys(s.tasks), sortedKeys(s.installs)
	w.numbers(&tasks)
	w.numbers(&installs)
	if w.reading {
		s.tasks, s.installs = make(map[uint64]*applyTask), make(map[uint64]*installTask)
	}
	for _, serial := range tasks {
		if w.reading {
			s.tasks[serial] = &applyTask{serial: serial}
		}
		w.outstanding(s.tasks[serial])
	}
	for _, serial := range installs {
		if w.reading {
			s.installs[serial] = &installTask{serial: serial}
		}
		w.fetching(s.installs[serial])
	}
}

// outstanding is a task that the applier has. What the applier changes in it is left out.
func (w *walk) outstanding(t *applyTask) {
	w.entries(&t.entries)
	w.messages(&t.responses)
	if w.present(t.restore != nil) {
		if w.reading {
			t.restore = &SnapshotRef{}
		}
		w.snapshotRef(t.restore)
	}
	w.uint(&t.index)
	w.uint(&t.term)
	w.flag(&t.capture)
	w.flag(&t.proof)
	if w.reading {
		t.batches = make([]*batch, len(t.entries))
	}
}

// fetching is a task that the fetcher has; it sets the chain.
func (w *walk) fetching(t *installTask) {
	w.uint(&t.from)
	w.uint(&t.ref.Index)
	w.uint(&t.ref.Term)
	w.confState(&t.ref.ConfState)
	w.bytes(&t.ref.Manifest)
	w.message(&t.msg)
}

// memory is the log in memory, which everything else points into.
func (w *walk) memory(l *memLog, s *recordedState) {
	w.hardState(&l.hard)
	w.uint(&l.offset)
	w.uint(&l.term0)
	w.packed(l, s)
	size := uint64(l.bytes) //nolint:gosec // not negative
	w.uint(&size)
	l.bytes = int(size) //nolint:gosec // as written
	w.snapshotRef(&l.snap)
	w.uint(&l.confIndex)
	w.flag(&l.wanted)
}

// Types that are written in a way of their own, or not at all.
var (
	typeRawNode   = reflect.TypeFor[*raft.RawNode]()
	typeMemLog    = reflect.TypeFor[*memLog]()
	typeRequest   = reflect.TypeFor[*request]()
	typeEntry     = reflect.TypeFor[*raftpb.Entry]()
	typeMessage   = reflect.TypeFor[*raftpb.Message]()
	typeSnapshot  = reflect.TypeFor[*raftpb.Snapshot]()
	typeConfState = reflect.TypeFor[*raftpb.ConfState]()
	typeHardState = reflect.TypeFor[*raftpb.HardState]()
	typeEnvelope  = reflect.TypeFor[envelope]()
	typeConfig    = reflect.TypeFor[coreConfig]()
	typeEffects   = reflect.TypeFor[effects]()
	typeAsks      = reflect.TypeFor[asks]()
	typeError     = reflect.TypeFor[error]()
)

// value walks something that has an address.
func (w *walk) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		b := v.Bool()
		w.flag(&b)
		if w.reading {
			v.SetBool(b)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i := v.Int()
		w.int(&i)
		if w.reading {
			v.SetInt(i)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		u := v.Uint()
		w.uint(&u)
		if w.reading {
			v.SetUint(u)
		}
	case reflect.String:
		s := v.String()
		w.text(&s)
		if w.reading {
			v.SetString(s)
		}
	case reflect.Array:
		w.array(v)
	case reflect.Slice:
		w.slice(v)
	case reflect.Map:
		w.mapping(v)
	case reflect.Struct:
		w.fields(v)
	case reflect.Pointer:
		w.pointer(v)
	case reflect.Func:
	case reflect.Interface:
		if v.Type() == typeError {
			w.error((*error)(v.Addr().UnsafePointer()))
		}
	default:
		panic("a " + v.Type().String())
	}
}

func (w *walk) array(v reflect.Value) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		w.fixed(v.Slice(0, v.Len()).Bytes())
		return
	}
	for i := range v.Len() {
		w.value(v.Index(i))
	}
}

func (w *walk) slice(v reflect.Value) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		w.bytes((*[]byte)(v.Addr().UnsafePointer()))
		return
	}
	if !w.present(!v.IsNil()) {
		if w.reading {
			v.SetZero()
		}
		return
	}
	n := w.length(v.Len())
	if w.reading {
		v.Set(reflect.MakeSlice(v.Type(), n, n))
	}
	for i := range n {
		w.value(v.Index(i))
	}
}

// mapping writes in the order of the keys' bytes: equal maps are equal bytes.
func (w *walk) mapping(v reflect.Value) {
	if !w.present(!v.IsNil()) {
		if w.reading {
			v.SetZero()
		}
		return
	}
	n := w.length(v.Len())
	key, item := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
	if w.reading {
		v.Set(reflect.MakeMapWithSize(v.Type(), min(n, 1024)))
		for range n {
			key.SetZero()
			item.SetZero()
			w.value(key)
			w.value(item)
			v.SetMapIndex(key, item)
		}
		return
	}
	type pair struct {
		bytes []byte
		key   reflect.Value
	}
	pairs := make([]pair, 0, n)
	for it := v.MapRange(); it.Next(); {
		key.Set(it.Key())
		k := &walk{}
		k.value(key)
		pairs = append(pairs, pair{k.b, it.Key()})
	}
	slices.SortFunc(pairs, func(a, b pair) int { return bytes.Compare(a.bytes, b.bytes) })
	for _, p := range pairs {
		item.Set(v.MapIndex(p.key))
		w.fixed(p.bytes)
		w.value(item)
	}
}

func (w *walk) fields(v reflect.Value) {
	switch v.Type() {
	case typeEffects, typeAsks:
		return // nothing is under way; functions
	case typeEnvelope: // a frame of others, with what they send
		e := (*envelope)(v.Addr().UnsafePointer())
		w.envelope(e)
		return
	}
	for i := range v.NumField() {
		field := v.Field(i)
		if done := field.Type(); field.CanInterface() || done.Size() == 0 {
			w.value(field)
			continue
		}
		switch field.Type() {
		case typeRawNode, typeMemLog, typeConfig: // have been walked
			continue
		}
		w.value(reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Elem())
	}
}

// What a pointer is.
const (
	pointsNowhere = iota
	pointsToNew
	pointsToSeen
	pointsToLog
)

func (w *walk) pointer(v reflect.Value) {
	if w.constant(v) {
		return
	}
	kind, number := byte(pointsToNew), uint64(0)
	if !w.reading {
		if n, seen := w.seen[v.UnsafePointer()]; v.IsNil() {
			kind = pointsNowhere
		} else if seen {
			kind, number = pointsToSeen, n
		}
	}
	w.byte(&kind)
	switch kind {
	case pointsNowhere:
		if w.reading {
			v.SetZero()
		}
	case pointsToNew:
		w.target(v)
	case pointsToSeen:
		w.uint(&number)
		if !w.reading {
			return
		}
		if number >= uint64(len(w.targets)) || w.targets[number].Type() != v.Type() {
			w.fail("a pointer to nothing")
			return
		}
		v.Set(w.targets[number])
	default:
		w.fail("a pointer of kind %d", kind)
	}
}

// constant walks what nobody changes once it is made: whether two point to the same does not matter.
func (w *walk) constant(v reflect.Value) bool {
	at := v.Addr().UnsafePointer()
	switch v.Type() {
	case typeEntry:
		w.entryPointer((**raftpb.Entry)(at))
	case typeSnapshot:
		w.snapshot((**raftpb.Snapshot)(at))
	case typeConfState:
		w.confState((**raftpb.ConfState)(at))
	case typeHardState:
		w.hardState((**raftpb.HardState)(at))
	case typeMessage:
		m := (**raftpb.Message)(at)
		if !w.present(*m != nil) {
			if w.reading {
				*m = nil
			}
			return true
		}
		w.message(m)
	default:
		return false
	}
	return true
}

// target walks what is met for the first time. Raft's own parts hold what cannot be written: they are read into in place.
func (w *walk) target(v reflect.Value) {
	if w.reading {
		if v.IsNil() || v.Type().Elem().PkgPath() != typeRawNode.Elem().PkgPath() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		w.targets = append(w.targets, reflect.NewAt(v.Type().Elem(), v.UnsafePointer()))
	} else {
		w.seen[v.UnsafePointer()] = uint64(len(w.seen))
	}
	if v.Type() == typeRequest {
		w.request(*(**request)(v.Addr().UnsafePointer()))
		return
	}
	w.value(v.Elem())
}

// entryPointer names the entries of the log by their index: two of one index and term are the same.
func (w *walk) entryPointer(v **raftpb.Entry) {
	kind, index := byte(pointsToNew), (*v).GetIndex()
	l := w.log
	switch {
	case w.reading:
	case *v == nil:
		kind = pointsNowhere
	case index > l.offset && index <= l.last() && l.entries[index-l.first()].GetTerm() == (*v).GetTerm():
		kind = pointsToLog
	}
	w.byte(&kind)
	switch kind {
	case pointsNowhere:
		if w.reading {
			*v = nil
		}
	case pointsToNew:
		w.entry(v)
	case pointsToLog:
		w.uint(&index)
		if !w.reading {
			return
		}
		if index <= l.offset || index > l.last() {
			w.fail("entry %d is not in the log", index)
			return
		}
		*v = l.entries[index-l.first()]
	default:
		w.fail("an entry of kind %d", kind)
	}
}

// request is one that waits. What its caller does with it is asked about, see asks.
func (w *walk) request(r *request) {
	w.size(&r.command)
	w.uint(&r.target)
	w.uint(&r.accept)
	w.uint(&r.serial)
	w.wanted(r)
}

// wanted is what an operator or the planner asks for.
func (t *tape) wanted(r *request) {
	if t.present(r.change != nil) {
		if t.reading {
			r.change = &raftpb.ConfChangeV2{}
		}
		t.proto(r.change)
	}
	if !t.present(r.leaveOut != nil) {
		return
	}
	if t.reading {
		r.leaveOut = &quarantine{}
	}
	q, place := r.leaveOut, uint64(r.leaveOut.place)
	t.uint(&q.index)
	t.uint(&q.term)
	t.uint(&place)
	q.place = uint32(place) //nolint:gosec // as written
	t.fixed(q.entry[:])
}

// inRole makes a raft whose functions are those of a role. All that it remembers is overwritten afterwards, and so is log.
func inRole(cfg *coreConfig, log *memLog, role raft.StateType) (*raft.RawNode, error) {
	voters := []uint64{cfg.id}
	if role != raft.StateLeader {
		voters = append(voters, cfg.id+1)
	}
	*log = memLog{
		hard: &raftpb.HardState{Term: new(uint64(1)), Commit: new(uint64(1))}, offset: 1, term0: 1,
		snap: SnapshotRef{Index: 1, Term: 1, ConfState: &raftpb.ConfState{Voters: voters}},
	}
	rc := cfg.raft(log)
	if err := checkRaftConfig(rc); err != nil {
		return nil, err
	}
	rn, err := raft.NewRawNode(rc)
	if err != nil || role == raft.StateFollower {
		return rn, err
	}
	if err := rn.Campaign(); err != nil {
		return nil, err
	}
	for role == raft.StateLeader && rn.HasReady() {
		for _, m := range rn.Ready().Messages {
			log.append(m.GetEntries())
			for _, r := range m.GetResponses() {
				_ = rn.Step(r)
			}
		}
	}
	if got := rn.BasicStatus().RaftState; (got == raft.StateFollower) || (got == raft.StateLeader) != (role == raft.StateLeader) {
		return nil, fmt.Errorf("a raft to read into is a %v, not a %v", got, role)
	}
	return rn, nil
}

// electionTimeout is where raft keeps the timeout that it has drawn.
func electionTimeout(rn *raft.RawNode) (*int, error) {
	inner := reflect.ValueOf(rn).Elem().FieldByName("raft")
	if !inner.IsValid() || inner.Kind() != reflect.Pointer {
		return nil, fmt.Errorf("%w: this raft keeps its state elsewhere", errTape)
	}
	field := inner.Elem().FieldByName("randomizedElectionTimeout")
	if !field.IsValid() || field.Kind() != reflect.Int {
		return nil, fmt.Errorf("%w: this raft has no timeout of elections", errTape)
	}
	return (*int)(unsafe.Pointer(field.UnsafeAddr())), nil //nolint:gosec // reads what raft does not show
}

// silent is a logger for what has been logged before.
type silent struct{ raftLogger }

func (silent) Info(...any)             {}
func (silent) Infof(string, ...any)    {}
func (silent) Warning(...any)          {}
func (silent) Warningf(string, ...any) {}
func (silent) Error(...any)            {}
func (silent) Errorf(string, ...any)   {}
