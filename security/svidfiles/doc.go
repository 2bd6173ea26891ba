// Package svidfiles keeps the identity of a program in files, for what reads files and not the Workload API: web servers,
// databases, gRPC's file watcher.
//
// A Dir is a directory that one process writes at a time. Each file is replaced in one step, so that whoever reads it sees
// all of the old one or all of the new one, after a crash as well. Two files are two steps: who reads the key and the
// certificate apart may see the new key beside the old certificate, and looks again. svid-key.pem has both, for who reads it
// once.
//
// The directory is held open while it is used, nothing is written through a symbolic link, and no file of another user is
// replaced: what others can put into the directory is refused with the reason, not followed. A Dir is for one goroutine.
package svidfiles
