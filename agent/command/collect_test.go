package command

import "testing"

// The heap of an agent that rests grows as Go has it, and so does one that is large; a small one under load has room.
func TestCollectPercent(t *testing.T) {
	for _, c := range []struct {
		allocated, live uint64
		want            int
	}{
		{0, 4 << 20, 100},
		{collectBusy - 1, 4 << 20, 100},
		{collectBusy, 0, collectMost},
		{collectBusy, 4 << 20, collectMost},
		{collectBusy, 32 << 20, 200},
		{collectBusy, 64 << 20, 100},
		{1 << 40, 1 << 30, 100},
	} {
		if got := collectPercent(c.allocated, c.live); got != c.want {
			t.Errorf("%d bytes allocated, %d live: %d percent, want %d", c.allocated, c.live, got, c.want)
		}
	}
}
