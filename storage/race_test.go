//go:build race

package storage

// raceStride: the exhaustive tests have one goroutine each; the race detector makes them ten times
// slower and has nothing to find there, so it sees a sample.
const raceStride = 9
