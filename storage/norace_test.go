//go:build !race

package storage

const raceStride = 1
