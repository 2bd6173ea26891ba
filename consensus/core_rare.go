package consensus

// A rare point is a place in the code where something legal that seldom happens is made to happen: Options.Rare says when.
// Production leaves it nil. The names are what the simulator counts.
const (
	rareSmallBatch   = "one command in a batch"
	rareSnapshotNow  = "a snapshot long before it is due"
	rareCompactAll   = "nothing kept behind a snapshot"
	rareSaveFails    = "a snapshot that is not written"
	rareFetchFails   = "a snapshot that is not fetched"
	rareLoneWrite    = "a write that waits for no other"
	rareApplyOne     = "one task applied, the others later"
	rareMessageLost  = "an urgent message lost in the queue"
	rareNoteLost     = "a note lost in the queue"
	rareReportLost   = "a report on a snapshot lost in the queue"
	rareReadAnew     = "a read round begun anew"
	rareLateProposal = "proposals that wait a tick"
	rareCheckpoint   = "a checkpoint long before it is due"
)

// RarePoints lists the points.
func RarePoints() []string {
	return []string{
		rareSmallBatch, rareSnapshotNow, rareCompactAll, rareSaveFails, rareFetchFails, rareLoneWrite, rareApplyOne,
		rareMessageLost, rareNoteLost, rareReportLost, rareReadAnew, rareLateProposal, rareCheckpoint,
	}
}

// rarely reports whether the rare thing shall happen now.
func (c *core) rarely(point string) bool { return c.cfg.rare != nil && c.cfg.rare(point) }
