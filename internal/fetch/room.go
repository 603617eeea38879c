package fetch

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// noRoom is the error of a disk that lacks space for a download.
type noRoom struct {
	text  string
	needs int64 // free bytes
}

func (n *noRoom) Error() string { return n.text }

// room returns a [noRoom] that something cannot be done if that would fill the disk of dir.
func room(do, dir string, need int64) error {
	free, err := state.Free(dir)
	if err == nil && need > free {
		err = &noRoom{fmt.Sprintf("cannot %s: it needs %.1f MB on the disk of %s, and %.1f MB are free", do, float64(need)/1e6, dir, float64(free)/1e6), need}
	}
	return err
}

// roomForDownload returns the error that a download, of which a part is stored, would fill
// the disk. If the kept previous release is in its way, the error says what becomes of
// that: the swapper gives it up when the next attempt begins.
func (f *fetcher) roomForDownload(p manifest.Platform, stored int64) error {
	dir := f.tree.Dir(state.RoleFetch, f.name)
	err := room("download "+p.File, dir, needs(p)-stored)
	lacks, is := errors.AsType[*noRoom](err)
	if !is || f.previous == nil {
		return err
	}
	disks := state.Disks{}
	own, err := disks.On(dir)
	if err != nil {
		return err
	}
	for _, p := range f.previous.Files {
		if disk, err := disks.On(p.Dir()); err == nil {
			disk.Gain += p.Size
		}
	}
	free, err := state.Free(dir)
	if err != nil || lacks.needs > free+own.Gain {
		return errors.Join(err, lacks)
	}
	kept := fmt.Sprintf("; release %s, which is kept for a rollback by command, has %.1f MB there", state.Called(f.previous.Version), float64(own.Gain)/1e6)
	if f.keeps {
		lacks.text += kept + ", and rollback.keep_previous keeps it (hint: df shows what is full)"
	} else {
		lacks.text += kept + ", and is given up when the next attempt begins (hint: run it again; or make room, to keep it)"
	}
	return lacks
}

// sizeOf returns the size of what is installed, 0 if the manifest does not list it.
func sizeOf(i target.Install, r *source.Release) (size int64) {
	files, err := i.Files(r.Key, r.Manifest.Version, slices.Collect(maps.Keys(r.Platform.Contents)))
	if err != nil {
		return 0 // the verifier reports it
	}
	for _, name := range files {
		size += r.Platform.Contents[name].Size
	}
	return size
}

// roomForFiles returns the error that the new files will not fit on the disks where they
// are installed, as far as the manifest lists them. Otherwise only the swapper would notice
// it, after each download. It counts on what the swapper can free there.
func (f *fetcher) roomForFiles(t *target.Target, r *source.Release) error {
	disks := state.Disks{}
	for _, i := range t.Install {
		disk, err := disks.On(i.Dir())
		if err != nil {
			continue // the swapper reports a directory that is missing
		}
		size := sizeOf(i, r)
		if size == 0 {
			continue
		}
		disk.Need += size
		if info, err := os.Lstat(i.To); err == nil && t.Hooks.BeforeSwap() > 0 && !i.Tree {
			disk.Need += info.Size() // its backup is a copy then
		}
	}
	kept := ""
	if f.previous != nil {
		for _, p := range f.previous.Files {
			if p.Backup != "" && p.Size == 0 {
				return nil // an earlier version has recorded it
			}
			if disk, err := disks.On(p.Dir()); err == nil {
				disk.Gain += p.Size
			}
		}
		if t.KeepPrevious {
			kept = state.Called(f.previous.Version)
		}
	}
	dir := f.tree.Dir(state.RoleFetch, f.name)
	own, err := disks.On(dir)
	if err != nil {
		return err
	}
	if !durable.CanDrain(dir) { // where it can, the swapper frees the verifier's files while it copies them
		own.Need *= 2
	}
	for _, d := range disks {
		free, err := state.Free(d.Dir)
		if err != nil {
			return err
		}
		lack := ""
		if kept != "" && d.Gain > 0 {
			lack = fmt.Sprintf("; release %s, which rollback.keep_previous keeps, has %.1f MB", kept, float64(d.Gain)/1e6)
			d.Gain = 0
		}
		if d.Need > free+d.Gain {
			return fmt.Errorf("cannot install %s: its files need %.1f MB on the disk of %s, and %.1f MB are free%s (hint: df shows what is full)",
				r.Manifest.Version, float64(d.Need)/1e6, d.Dir, float64(free)/1e6, lack)
		}
	}
	return nil
}
