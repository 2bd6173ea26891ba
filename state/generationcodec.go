package state

import (
	"encoding/binary"
	"slices"

	"github.com/parley-mesh/parley/clock"
)

func (c NodeGenerations) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(c.Claims)))
	for _, claim := range c.Claims {
		b = appendString(b, claim.Node)
		b = binary.AppendUvarint(binary.AppendUvarint(b, claim.Binding), claim.Series)
		b = appendMarks(binary.AppendUvarint(b, claim.First), claim.Marks)
		b = appendBool(b, claim.Live)
	}
	if !c.hasWord() {
		return b
	}
	for _, claim := range c.Claims {
		b = binary.AppendUvarint(b, uint64(claim.Word))
	}
	return b
}

// hasWord tells whether the words of the claims stand behind them all, which they do not where there is none.
func (c NodeGenerations) hasWord() bool {
	return slices.ContainsFunc(c.Claims, func(claim GenerationClaim) bool { return claim.Word != 0 })
}

func readNodeGenerations(r *reader) Command {
	var c NodeGenerations
	for range r.count(MaxGenerationClaims, "claims") {
		claim := GenerationClaim{Node: r.string(MaxNameBytes, "node name"), Binding: r.uvarint(), Series: r.uvarint(), First: r.uvarint()}
		claim.Marks = readMarks(r, MaxGenerationMarks)
		claim.Live = r.bool("live")
		c.Claims = append(c.Claims, claim)
	}
	if r.err != nil || len(r.b) == 0 {
		return c
	}
	for i := range c.Claims {
		c.Claims[i].Word = clock.Stamp(r.uvarint())
	}
	if r.err == nil && !c.hasWord() {
		r.fail("no operator's word is written as nothing")
	}
	return c
}

func (c NodeTrust) append(b []byte) []byte { return appendString(b, c.Node) }

func readNodeTrust(r *reader) Command { return NodeTrust{Node: r.string(MaxNameBytes, "node name")} }

func appendMarks(b []byte, marks []GenerationMark) []byte {
	b = binary.AppendUvarint(b, uint64(len(marks)))
	for _, m := range marks {
		b = append(b, m[:]...)
	}
	return b
}

func readMarks(r *reader, limit int) []GenerationMark {
	var marks []GenerationMark
	for range r.count(limit, "marks of generations") {
		marks = append(marks, r.fixed16("mark"))
	}
	return marks
}

func encodeGenerations(g Generations) []byte {
	b := appendString(newRow(32+len(g.Node)+16*len(g.Marks)), g.Node)
	b = binary.AppendUvarint(binary.AppendUvarint(b, g.Binding), g.Series)
	b = appendMarks(binary.AppendUvarint(b, g.Generation), g.Marks)
	return binary.AppendUvarint(appendBool(b, g.Jumps), uint64(g.BeginBy))
}

func decodeGenerations(row []byte) (Generations, error) {
	r := openRow(row)
	g := Generations{Node: r.string(MaxNameBytes, "node name"), Binding: r.uvarint(), Series: r.uvarint(), Generation: r.uvarint()}
	g.Marks = readMarks(&r, MaxGenerationWindow)
	g.Jumps, g.BeginBy = r.bool("jumps"), clock.Stamp(r.uvarint())
	if r.err == nil && uint64(len(g.Marks)) > g.Generation {
		r.fail("more marks than generations")
	}
	return g, r.done()
}

func encodeFork(f Fork) []byte {
	b := binary.AppendUvarint(appendString(newRow(96), f.Node), f.Generation)
	return appendString(binary.AppendUvarint(b, uint64(f.At)), f.By)
}

func decodeFork(row []byte) (Fork, error) {
	r := openRow(row)
	f := Fork{Node: r.string(MaxNameBytes, "node name"), Generation: r.uvarint(), At: clock.Stamp(r.uvarint())}
	f.By = r.string(MaxCallerBytes, "caller")
	return f, r.done()
}

// checkGenerationRow is checkRow for the two tables, which are by node.
func checkGenerationRow(t Table, row []byte) (own string, err error) {
	if t == TableFork {
		f, err := decodeFork(row)
		return f.Node, err
	}
	g, err := decodeGenerations(row)
	return g.Node, err
}
