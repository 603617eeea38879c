package state

import (
	"os"
	"syscall"
)

// A Stamp is what the kernel says of a regular file. It changes with each write to the
// file and with each of its names, so a file with the same stamp has the same content, and
// need not be read again to know its digest. It is valid during one boot.
type Stamp struct {
	FileID
	Size     int64 `json:"size"`
	Modified int64 `json:"modified"` // in nanoseconds since 1970
	Changed  int64 `json:"changed"`  // that of the inode, which no user can set
}

// StampOf returns the stamp of a file whose digest is known, and does not follow a
// symbolic link. The kernel's times advance in ticks of milliseconds: if the content was
// written in the tick of the last change, a later write in that tick would not show, and
// there is no stamp. Nor is there one if the file cannot be looked at.
func StampOf(path string) *Stamp {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	st := info.Sys().(*syscall.Stat_t)
	s := &Stamp{FileID: FileID{Dev: uint64(st.Dev), Ino: st.Ino}, Size: st.Size, Modified: st.Mtim.Nano(), Changed: st.Ctim.Nano()}
	if s.Modified >= s.Changed {
		return nil
	}
	return s
}

// Still reports whether the file at path has this stamp. No file has the nil stamp.
func (s *Stamp) Still(path string) bool {
	now := StampOf(path)
	return s != nil && now != nil && *s == *now
}

// SameContent reports whether two stamps are of one file that was not written in between.
func (s *Stamp) SameContent(t *Stamp) bool {
	return s != nil && t != nil && s.FileID == t.FileID && s.Size == t.Size && s.Modified == t.Modified
}
