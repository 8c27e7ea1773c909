// Package replace puts a file in the place of another in one step: who reads it
// meanwhile finds the old one or the new one, whole.
package replace

import (
	"errors"
	"io/fs"
	"os"
)

// File writes data to tmp and gives it the name file, in the same folder. A lock
// of the caller's sees to it that nobody else uses tmp: what is there was left by
// one that was killed, and goes. So no sweep is needed, and no age to go by.
//
// It is not synced: that takes longer than a start that finds nothing to do. A
// crash of the host can leave the file empty or torn. What must outlive a crash is
// written with renameio, which always syncs and gives its temporary file a random
// name; that is why this package is here beside it.
func File(file, tmp string, data []byte, mode fs.FileMode) error {
	_ = os.Remove(tmp) // what cannot be removed is in the way of the next line
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Close()) // whatever the umask
	if err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}
