package svidfiles

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const (
	lockName = ".parley.lock"
	newName  = ".parley.new"

	// maxFile is the most that is read of a file that is there already, to see whether it changes.
	maxFile = 4 << 20
)

// ErrHeld is returned by Open when another process keeps the files of the directory.
var ErrHeld = errors.New("another process keeps the files there")

// File is one file and what is in it.
type File struct {
	Name   string // without a directory
	Data   []byte
	Secret bool // for its owner alone (0600), else for all (0644)
}

// Dir is a directory of files that this process keeps.
type Dir struct {
	path string
	root *os.Root
	lock *os.File
}

// Open takes a directory, which it makes if need be for its owner alone (0700). It has to be a directory of this user's, in
// which nobody else can write. The caller closes it.
func Open(path string) (*Dir, error) {
	path = filepath.Clean(path) // with a slash behind it a link would be followed
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, fmt.Errorf("%s is a symbolic link, which is not followed: name the directory itself", path)
	case !info.IsDir():
		return nil, fmt.Errorf("%s is no directory", path)
	case !ours(info):
		return nil, fmt.Errorf("%s is a directory of another user: choose one of your own", path)
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("%s has mode %04o, so that others may put files there: chmod go-w %s, or choose another", path, info.Mode().Perm(), path)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, root: root}
	if err := d.take(info); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// take locks the directory, once it is sure that what was opened is what was looked at.
func (d *Dir) take(looked fs.FileInfo) error {
	opened, err := d.root.Stat(".")
	if err != nil {
		return err
	}
	if !os.SameFile(looked, opened) {
		return fmt.Errorf("%s became another directory while it was opened", d.path)
	}
	if _, err := d.replaceable(lockName); err != nil {
		return err
	}
	if d.lock, err = d.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	err = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) //nolint:gosec // a descriptor is a small number
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w", d.path, ErrHeld)
	}
	return err
}

// Close lets others have the directory. The files stay.
func (d *Dir) Close() error {
	err := d.root.Close()
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close()) // which unlocks
	}
	return err
}

// Write puts files in place in this order, each in one step, and returns the paths of those that changed. Before the first
// step it looks at all of them: with a link, or a file of another user, in place of one it changes nothing.
func (d *Dir) Write(files ...File) (changed []string, err error) {
	same := make([]bool, len(files))
	for i, f := range files {
		if same[i], err = d.holds(f); err != nil {
			return nil, err
		}
	}
	for i, f := range files {
		if same[i] {
			continue
		}
		if err := d.replace(f); err != nil {
			return changed, fmt.Errorf("write %s: %w", filepath.Join(d.path, f.Name), err)
		}
		changed = append(changed, filepath.Join(d.path, f.Name))
	}
	return changed, d.sync()
}

// holds reports whether a file is there already as it should be.
func (d *Dir) holds(f File) (bool, error) {
	if f.Name != filepath.Base(f.Name) || f.Name == "." || f.Name == ".." || f.Name == "/" || f.Name == lockName || f.Name == newName {
		return false, fmt.Errorf("%q cannot be the name of a file in %s", f.Name, d.path)
	}
	info, err := d.replaceable(f.Name)
	if err != nil || info == nil || info.Mode().Perm() != f.mode() || info.Size() > maxFile {
		return false, err
	}
	old, err := d.root.Open(f.Name)
	if err != nil {
		return false, nil //nolint:nilerr // it is replaced
	}
	defer old.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(old, maxFile+1))
	return err == nil && bytes.Equal(text, f.Data), nil
}

// replaceable returns what is in the place of a file, nil if nothing is, and an error if it is not ours to replace.
func (d *Dir) replaceable(name string) (fs.FileInfo, error) {
	path := filepath.Join(d.path, name)
	info, err := d.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, fmt.Errorf("%s is a symbolic link, which is not followed: remove it, or choose another directory", path)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file: remove it, or choose another directory", path)
	case !ours(info):
		return nil, fmt.Errorf("%s is another user's, and is left alone: have it removed, or choose another directory", path)
	}
	return info, nil
}

func (f File) mode() fs.FileMode {
	if f.Secret {
		return 0o600
	}
	return 0o644
}

// replace writes beside the file, with the mode that it is to have from its first byte on, and renames.
func (d *Dir) replace(f File) (err error) {
	if err := d.root.Remove(newName); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a crash
		return err
	}
	file, err := d.root.OpenFile(newName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(f.Data)
	if err == nil {
		err = file.Chmod(f.mode()) // whatever the umask is
	}
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, d.root.Remove(newName))
	}
	return d.root.Rename(newName, f.Name)
}

func (d *Dir) sync() error {
	dir, err := d.root.Open(".")
	if err != nil {
		return err
	}
	_ = dir.Sync() // not every file system can
	return dir.Close()
}

// ours reports whether a file belongs to the user that this process runs as.
func ours(info fs.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == os.Geteuid()
}
