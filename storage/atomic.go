package storage

import (
	"errors"
	"io/fs"
	"path/filepath"
)

// TmpSuffix marks files that a crash may leave behind; they are never read.
const TmpSuffix = ".tmp"

// WriteFileAtomic replaces path with data: a crash leaves the old content or the new, whole. It
// returns after both are durable. Errors: wrapped ErrNoSpace (old content in place), *FatalError when
// a sync failed, others as they come. One writer for a path at a time.
func WriteFileAtomic(fsys FS, path string, data []byte, perm fs.FileMode) error {
	if err := writeTmpRename(fsys, path, data, perm); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := fsys.SyncDir(dir); err != nil {
		return classifySoft("sync", dir, err)
	}
	return nil
}

// writeTmpRename is WriteFileAtomic without the directory's sync: data is durable, its name not yet.
func writeTmpRename(fsys FS, path string, data []byte, perm fs.FileMode) error {
	tmp := path + TmpSuffix
	if op, err := writeSynced(fsys, tmp, data, perm); err != nil {
		_ = fsys.Remove(tmp) // best effort: it is never read, and the first error is the one to report
		return classifySoft(op, tmp, err)
	}
	if err := fsys.Rename(tmp, path); err != nil {
		_ = fsys.Remove(tmp)
		return classifySoft("rename", tmp, err)
	}
	return nil
}

// writeSynced makes a file with data and syncs it; on an error it names the operation that failed.
func writeSynced(fsys FS, path string, data []byte, perm fs.FileMode) (op string, err error) {
	f, err := fsys.Create(path, perm)
	if err != nil {
		return "create", err
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			op, err = "close", closeErr
		}
	}()
	if _, err := f.WriteAt(data, 0); err != nil {
		return "write", err
	}
	if err := f.Sync(); err != nil {
		return "sync", err
	}
	return "", nil
}

// AppendSynced adds data to the end of path, which it makes if it is not there, and returns when that is
// durable. A crash may leave a part of data. Errors: wrapped ErrNoSpace, *FatalError when a sync failed,
// others as they come.
func AppendSynced(fsys FS, path string, data []byte, perm fs.FileMode) (err error) {
	f, err := fsys.Open(path)
	made := errors.Is(err, fs.ErrNotExist)
	if made {
		f, err = fsys.Create(path, perm)
	}
	if err != nil {
		return classifySoft("open", path, err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			err = classifySoft("close", path, closeErr)
		}
	}()
	size, err := f.Size()
	if err != nil {
		return classifySoft("size", path, err)
	}
	if _, err := f.WriteAt(data, size); err != nil {
		return classifySoft("write", path, err)
	}
	if err := f.Sync(); err != nil {
		return classifySoft("sync", path, err)
	}
	if !made {
		return nil
	}
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return classifySoft("sync", filepath.Dir(path), err)
	}
	return nil
}
