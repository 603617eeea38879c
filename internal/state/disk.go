package state

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Disk is a file system, and what an attempt needs there in bytes.
type Disk struct {
	Dir  string // a directory on it
	Need int64
	Gain int64 // what the previous release's backups occupy
}

// Disks are file systems by their device numbers.
type Disks map[uint64]*Disk

// On returns the disk of an existing directory.
func (d Disks) On(dir string) (*Disk, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, fmt.Errorf("cannot find the disk of %s: %w", dir, err)
	}
	if d[st.Dev] == nil {
		d[st.Dev] = &Disk{Dir: dir}
	}
	return d[st.Dev], nil
}
