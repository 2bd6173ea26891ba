package storage

// Rare points, where LogOptions.Rare makes something legal happen that seldom does.
const (
	rareRoll    = "a segment that ends early"
	rareNoSpare = "a spare that was not ready"
	rareAnchor  = "an anchor that is not refreshed this time"
)

// RarePoints lists them.
func RarePoints() []string { return []string{rareRoll, rareNoSpare, rareAnchor} }

func (l *Log) rarely(point string) bool { return l.rare != nil && l.rare(point) }
