// Package sim runs a core of several members in one goroutine, on virtual time, from one seed.
//
// What runs is the production code: consensus.Replica with its codec of frames, state.Machine, and the log and
// snapshots of storage on disks in memory. What is simulated is the world: a network, disks, clocks, crashes, and
// clients. Every choice is drawn from the seed, so a failure is replayed by its number.
//
//	result := sim.Run(sim.Options{Seed: 7, Nodes: 3})
//	if result.Err != nil { ... }
//
// During a run every step is checked: one leader a term, one history of applied entries with equal digests at equal
// indexes, no commit index that goes back. At the end the faults stop, and the core must heal: write again, agree, and
// hold everything that was acknowledged. What the clients saw must be linearizable.
//
// raft draws its election timeouts from the process's crypto/rand.Reader. Run replaces it while it runs, so one process
// runs one simulation at a time.
package sim
