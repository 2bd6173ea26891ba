package consensus

import (
	"bytes"
	"strings"
	"testing"
)

// TestNotes: a note travels by the frame, from whoever it says, and the queue keeps the newest.
func TestNotes(t *testing.T) {
	q := newPeerQueue()
	for i := range maxPeerNotes + 3 {
		q.tell(sentNote{note{peer: 2, kind: 7, body: []byte{byte(i)}}, 1})
	}
	notes := q.takeNotes()
	if len(notes) != maxPeerNotes || notes[0].body[0] != 3 || q.takeNotes() != nil {
		t.Fatalf("%d notes wait, the first is %v", len(notes), notes[0])
	}
	in, err := decodeFrame(appendNote(nil, 1, notes[0].note))
	if err != nil || len(in.notes) != 1 {
		t.Fatalf("decoded %v, %v", in, err)
	}
	if n := in.notes[0]; n.peer != 1 || n.kind != 7 || !bytes.Equal(n.body, []byte{3}) {
		t.Errorf("got %+v", n)
	}
	if _, err := decodeFrame(appendNote(nil, 1, note{kind: 7, body: make([]byte, maxNoteBytes+1)})); err == nil {
		t.Error("a note over the limit was taken")
	}
	s := newSim(t, 1)
	s.add(1, 1)
	if err := s.nodes[1].core.hear(note{peer: 9, kind: 255}); err == nil || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("a note of an unknown kind: %v", err)
	}
}
