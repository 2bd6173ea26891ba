// Package xds has one test: gRPC's own xDS client and its file watcher take the files that `parley identity fetch --write
// --watch` keeps, through renewals and a change of the root. It is a module of its own, because gRPC's xDS client brings modules
// that Parley does not need.
package xds
