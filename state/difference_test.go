package state

import (
	"fmt"
	"slices"
	"testing"
)

// marksOf is the rows as "table key".
func marksOf(marks []RowMark) (out []string) {
	for _, m := range marks {
		out = append(out, m.Table.String()+" "+m.Key)
	}
	slices.Sort(out)
	return out
}

func allBuckets() (all []int) {
	for i := range DigestBuckets {
		all = append(all, i)
	}
	return all
}

// differingBuckets are those in which two states differ.
func differingBuckets(a, b *View) (different []int) {
	sums := b.Buckets()
	for i, sum := range a.Buckets() {
		if sum != sums[i] {
			different = append(different, i)
		}
	}
	return different
}

// One row that came out otherwise on one of two replicas is found through its bucket, among a thousand, also when the
// good replica has gone on meanwhile. What it changed since is not taken for damage: that is the control.
func TestDifferentRows(t *testing.T) {
	good, bad := testGenesis(), testGenesis()
	for i := range 1000 {
		c := Put{Key: fmt.Sprintf("k%03d", i), Value: []byte("v")}
		do(t, good, c, CodeOK)
		if i == 500 {
			c.Value = []byte("w")
		}
		do(t, bad, c, CodeOK)
	}
	buckets := differingBuckets(good.View(), bad.View())
	if len(buckets) != 1 {
		t.Fatalf("%d buckets differ, want 1", len(buckets))
	}
	older := bad.View()
	got := DifferentRows(older.BucketRows(buckets, 100), good.View().BucketRows(buckets, 100), older.Revision(), true)
	if !slices.Equal(marksOf(got), []string{"kv k500"}) {
		t.Errorf("got %q, want k500", marksOf(got))
	}
	do(t, good, Put{Key: "k600", Value: []byte("later")}, CodeOK)
	do(t, good, Put{Key: "new"}, CodeOK)
	do(t, good, Delete{Key: "k700"}, CodeOK)
	buckets = differingBuckets(good.View(), older)
	got = DifferentRows(older.BucketRows(buckets, 100), good.View().BucketRows(buckets, 100), older.Revision(), false)
	if len(buckets) < 4 || !slices.Equal(marksOf(got), []string{"kv k500"}) {
		t.Errorf("%d buckets differ and of their rows %q, want k500 alone", len(buckets), marksOf(got))
	}
}

// A row that only one of them has is a difference when there is no later change that explains it.
func TestMissingRows(t *testing.T) {
	mark := func(key string, revision uint64) RowMark {
		return RowMark{Table: TableKV, Key: key, Revision: revision}
	}
	a, b := mark("a", 3), mark("b", 5)
	for _, test := range []struct {
		what         string
		older, newer []RowMark
		same         bool
		want         []string
	}{
		{"equal", []RowMark{a, b}, []RowMark{a, b}, true, nil},
		{"missing in the older", []RowMark{a}, []RowMark{a, b}, false, []string{"kv b"}},
		{"made since", []RowMark{a}, []RowMark{a, mark("c", 9)}, false, nil},
		{"missing in the newer, perhaps deleted since", []RowMark{a, b}, []RowMark{a}, false, nil},
		{"missing at the same revision", []RowMark{a, b}, []RowMark{a}, true, []string{"kv b"}},
		{"another revision", []RowMark{mark("a", 2)}, []RowMark{a}, false, []string{"kv a"}},
	} {
		if got := marksOf(DifferentRows(test.older, test.newer, 7, test.same)); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.what, got, test.want)
		}
	}
}

// The marks are bounded.
func TestBucketRowsLimit(t *testing.T) {
	m := testGenesis()
	for i := range 50 {
		do(t, m, Put{Key: fmt.Sprint(i)}, CodeOK)
	}
	if got := len(m.View().BucketRows(allBuckets(), 20)); got != 20 {
		t.Errorf("got %d rows, want 20", got)
	}
	if got, want := len(m.View().BucketRows(allBuckets(), 1000)), 50+5; got != want {
		t.Errorf("got %d rows, want %d: the keys and those of the genesis", got, want)
	}
}
