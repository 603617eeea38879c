package swap

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// entrySize returns the size of a file of the tree, 0 if it is not there.
func entrySize(entry *state.Bundle, name string) int64 {
	info, err := entry.Lstat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

// stageEntry copies an entry of a verified tree, without a sync if the caller makes one. What
// is copied is freed there, so that a release needs its space once. An entry that is
// installed twice comes from its first copy, which is root's.
func (sw *swapping) stageEntry(entry *state.Bundle, from, staged string, want manifest.Content, inContents bool, room int64, sync bool) (string, error) {
	in, f, frees, err := sw.openEntry(entry, from)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	limit := info.Size() // a file that grows during the copy could fill the disk
	if inContents {
		limit = min(limit, want.Size)
	}
	if need := spaceFor(info, frees, filepath.Dir(staged)); need > room {
		return "", fmt.Errorf("it needs %d bytes, %d are free", need, room)
	}
	sum, err := copyFile(staged, in, limit, sync)
	if sw.copied == nil {
		sw.copied = map[string]string{}
	}
	sw.copied[from] = staged
	return sum, err
}

func (sw *swapping) openEntry(entry *state.Bundle, from string) (io.Reader, *os.File, bool, error) {
	if path, ok := sw.copied[from]; ok {
		f, err := durable.OpenRegular(path)
		return f, f, false, err
	}
	return entry.OpenOnce(from)
}

// spaceFor returns the space that a copy of a file into dir needs. What a file does not
// occupy, such as a hole, is not freed.
func spaceFor(info fs.FileInfo, frees bool, dir string) int64 {
	size, freed := info.Size(), int64(0)
	if st := info.Sys().(*syscall.Stat_t); frees && deviceOf(info) == deviceAt(dir) {
		freed = min(size, st.Blocks*512)
	}
	return size - freed + min(freed, durable.DrainStep)
}

func deviceOf(i fs.FileInfo) int64 { return int64(i.Sys().(*syscall.Stat_t).Dev) }

// deviceAt returns the device number of a directory's file system, -2 if it is not known.
func deviceAt(dir string) int64 {
	info, err := os.Stat(dir)
	if err != nil {
		return -2
	}
	return deviceOf(info)
}

// freedDevice returns the file system on which what is copied from the verified tree is
// freed meanwhile, or -1.
func (sw *swapping) freedDevice() int64 {
	own := sw.Tree.Dir(state.RoleSwap, sw.name)
	if device := deviceAt(own); device == deviceAt(sw.Tree.Dir(state.RoleVerify, sw.name)) && durable.CanDrain(own) {
		return device
	}
	return -1
}
