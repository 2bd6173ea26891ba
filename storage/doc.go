// Package storage owns the files of a core member: the write-ahead log, its anchor, and snapshots.
// It promises that what was acknowledged is found again after a crash, and that damage is reported,
// never served and never cut away.
//
//	log, recovered, err := storage.OpenLog(storage.LogOptions{FS: storage.OS(), Dir: dir, ...})
//	go log.Run(ctx)                          // keeps the anchor fresh and the next segment ready
//	err = log.Append(entries, hardState, true) // returned nil: on disk
//	manifest, err := snapshots.Save(meta, write)
//	err = log.Compact(meta.Index)
//
// A damaged log is not the end of its raft id: Salvage says what is left of it and which hashes the missing entries
// have, Salvaged.Offer takes those from any peer, and Salvaged.Repair puts the whole log in place. None of it waits or
// starts anything.
//
// Scrub verifies all of it at rest, beside a running Log or of a directory that nobody uses.
//
// The files, byte by byte, are in FORMAT.md. Two rules run through everything:
//
//   - A failed fsync is final. The kernel may have dropped the pages and marked them clean, so a
//     second fsync that succeeds proves nothing. The error is a *FatalError, the Log refuses all that
//     follows, and the caller ends the process; the next start writes the doubtful tail again.
//   - A bad frame is a torn tail only if nothing says that it was once durable: no later frame, no
//     later segment, no anchor. A torn tail is cut (and kept aside); anything else is a *DamageError.
//
// What cannot be detected: a disk that reports a sync as done, loses it, and loses the anchor's sync
// as well; and damage to the very last frames within the 20 ms before a crash in which the anchor does
// not cover them yet. Both look like a torn tail. Where a torn frame is seen, Recovered.InDoubt tells the
// voter that it must hear its peers before it votes; where nothing is left of a frame, only what the peers
// have heard us acknowledge can tell.
//
// Nothing here protects a directory from two processes: take LockDir first.
//
// Log and Snapshots are safe for concurrent use. Writers take turns; Chain, Latest, Open and Chunk
// never wait for a writer.
package storage
