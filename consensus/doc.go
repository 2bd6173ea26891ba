// Package consensus replicates one ordered log of commands over the core's voters and learners
// and feeds it to a state machine.
//
// The common case: open the log and the snapshots, give what they recovered to New, run the node,
// propose on the leader and read behind ReadIndex.
//
//	node, err := consensus.New(consensus.Options{ID: id, Clock: clk, Log: log, Recovered: rec,
//		Snapshots: snaps, Machine: machine, Peers: peers})
//	go node.Run(ctx)
//	done, err := node.Propose(ctx, command)   // on the leader; *NotLeaderError names it otherwise
//	index, err := node.ReadIndex(ctx)         // then node.WaitApplied(ctx, index), then read
//
// The package is split in two. The files core*.go are pure: events in, effects out, no goroutine,
// lock, clock or I/O, so that a cluster runs step by step in a test. The shell (node*.go, peers*.go)
// performs the effects and decides nothing. Four goroutines carry a write:
//
//   - the loop owns the core and the clock. It batches waiting commands into one Raft entry.
//   - the log writer owns Log. It merges whatever is queued into one append and one sync, then
//     sends the acknowledgements itself.
//   - the applier owns the StateMachine and answers proposers.
//   - one writer a peer owns the outgoing connection.
//
// Two more, idle as a rule, write snapshots and fetch them from peers.
//
// Promises. A proposal that returned without error is on the disks of a majority and applied here.
// *NotLeaderError, ErrBusy, ErrTooLarge and *UnavailableError mean that nothing happened;
// *OutcomeUnknownError means that it may have. Every exported method of Node is safe for
// concurrent use. Nothing is written except through Log and Snapshots.
package consensus
