package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Modes of everything the package makes: the files hold the cluster's state.
const (
	filePerm fs.FileMode = 0o600
	dirPerm  fs.FileMode = 0o700
)

// FS is the file system as the package uses it. OS is the real one; Mem can crash and lie. Errors
// satisfy errors.Is with fs.ErrNotExist, syscall.ENOSPC and so on.
type FS interface {
	// Create makes path empty, new or not, and opens it for reading and writing.
	Create(path string, perm fs.FileMode) (File, error)
	// Open opens an existing file for reading and writing.
	Open(path string) (File, error)
	// OpenRead opens an existing regular file for reading alone: it may be on a medium that takes no writes.
	OpenRead(path string) (File, error)
	// Rename replaces to atomically. It is durable after SyncDir of the directory.
	Rename(from, to string) error
	Remove(path string) error
	// MkdirAll makes path and its parents; what exists is left alone.
	MkdirAll(path string, perm fs.FileMode) error
	// List returns the names in dir in byte order.
	List(dir string) ([]string, error)
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
}

// File is an open file. Reads and writes may run at the same time.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes the data durable, and as much metadata as reading it back needs.
	Sync() error
	Size() (int64, error)
	Close() error
}

// OS returns the machine's file system.
func OS() FS { return osFS{} }

type osFS struct{}

type osFile struct{ *os.File }

func (osFS) Create(path string, perm fs.FileMode) (File, error) {
	return wrapFile(os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, perm))
}

func (osFS) Open(path string) (File, error) {
	return wrapFile(os.OpenFile(path, os.O_RDWR, 0))
}

// OpenRead does not wait for somebody to write into a named pipe, which is no regular file.
func (osFS) OpenRead(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("is not a regular file")}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return osFile{f}, nil
}

func wrapFile(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Rename(from, to string) error                 { return os.Rename(from, to) }
func (osFS) Remove(path string) error                     { return os.Remove(path) }
func (osFS) MkdirAll(path string, perm fs.FileMode) error { return os.MkdirAll(path, perm) }

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, nil
}

func (osFS) SyncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := d.Close(); err == nil {
			err = closeErr
		}
	}()
	return d.Sync()
}

func (f osFile) Sync() error { return datasync(f.File) }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// ReadFile returns the content of path, refusing more than limit bytes.
func ReadFile(fsys FS, path string, limit int64) (data []byte, err error) {
	f, err := fsys.OpenRead(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("read %s: %w: %d bytes, limit %d", path, errTooLong, size, limit)
	}
	data = make([]byte, size)
	if err := readFull(f, data, 0); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// readFull fills data from offset; a shorter file is io.ErrUnexpectedEOF.
func readFull(f File, data []byte, offset int64) error {
	n, err := f.ReadAt(data, offset)
	if n == len(data) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
