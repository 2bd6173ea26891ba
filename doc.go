// Package parley is the root of the repository and holds no code of its own. ARCHITECTURE.md says
// where to start reading; the test here keeps the tree in the shape that it describes.
package parley
