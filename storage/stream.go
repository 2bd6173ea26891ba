package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
)

// WriteStreamAtomic makes path hold what write produces: written to path.tmp, synced, read back by
// verify, then renamed, the directory synced. A crash or an error leaves what was there before; verify
// reads what came back from the file system, before the name says that it is good. Errors are as
// WriteFileAtomic's, and write's and verify's own.
func WriteStreamAtomic(fsys FS, path string, perm fs.FileMode, write func(io.Writer) error, verify func(io.Reader) error) error {
	tmp := path + TmpSuffix
	if err := writeStream(fsys, tmp, perm, write, verify); err != nil {
		_ = fsys.Remove(tmp) // best effort: it is never read, and the first error is the one to report
		return err
	}
	if err := fsys.Rename(tmp, path); err != nil {
		_ = fsys.Remove(tmp)
		return classifySoft("rename", tmp, err)
	}
	dir := filepath.Dir(path)
	if err := fsys.SyncDir(dir); err != nil {
		return classifySoft("sync", dir, err)
	}
	return nil
}

func writeStream(fsys FS, path string, perm fs.FileMode, write func(io.Writer) error, verify func(io.Reader) error) (err error) {
	f, err := fsys.Create(path, perm)
	if err != nil {
		return classifySoft("create", path, err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			err = classifySoft("close", path, closeErr)
		}
	}()
	w := &streamWriter{f: f}
	if err := write(w); err != nil {
		if w.err != nil {
			return classifySoft("write", path, w.err)
		}
		return err
	}
	if err := f.Sync(); err != nil {
		return classifySoft("sync", path, err)
	}
	if verify == nil {
		return nil
	}
	if err := verify(io.NewSectionReader(f, 0, w.offset)); err != nil {
		return fmt.Errorf("read back %s: %w", path, err)
	}
	return nil
}

// streamWriter writes a File from its beginning on. A short write without an error is one.
type streamWriter struct {
	f      File
	offset int64
	err    error
}

// Write implements io.Writer.
func (w *streamWriter) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.offset)
	w.offset += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	w.err = errors.Join(w.err, err)
	return n, err
}

// ReadStream opens path for reading in order and closes it when read returns.
func ReadStream(fsys FS, path string, read func(r io.Reader, size int64) error) error {
	f, err := fsys.OpenRead(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	size, err := f.Size()
	if err != nil {
		return err
	}
	return read(io.NewSectionReader(f, 0, size), size)
}
