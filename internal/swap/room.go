package swap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// makeRoom gives the kept previous release up if the new files do not fit beside it, but
// do without it. size returns the bytes of a new file, 0 if it is not known. What does not
// fit at all is reported when it is staged; the previous release is not given up for that.
func (sw *swapping) makeRoom(size func(target.Install) int64) error {
	prev := sw.status.Previous
	if prev == nil {
		return nil
	}
	disks := state.Disks{}
	freed := sw.freedDevice()
	for _, i := range sw.target.Install {
		if durable.OfUser(i.To) {
			continue // its copy is on the disk of the state
		}
		n := size(i)
		disk, err := disks.On(i.Dir())
		if err != nil || n == 0 {
			continue // staging reports it
		}
		if deviceAt(i.Dir()) == freed {
			n = min(n, durable.DrainStep)
		}
		disk.Need += n + sideRoom
		if sw.target.Hooks.BeforeSwap() > 0 && !i.Tree { // the backup of the installed file is a copy then
			disk.Need += dirtree.Size(i.To)
		}
	}
	for _, f := range prev.Files {
		if f.Backup == "" {
			continue
		}
		if disk, err := disks.On(filepath.Dir(f.Backup)); err == nil {
			disk.Gain += dirtree.Size(f.Backup)
		}
	}
	for _, d := range disks {
		free, err := state.Free(d.Dir)
		if err != nil {
			return err
		}
		if d.Need <= free || d.Need > free+d.Gain {
			continue
		}
		lack := fmt.Sprintf("the new files need %.1f MB on the disk of %s, and %.1f MB are free", float64(d.Need)/1e6, d.Dir, float64(free)/1e6)
		if sw.target.KeepPrevious {
			return fmt.Errorf("cannot stage the release: %s; release %s, which rollback.keep_previous keeps, has %.1f MB (hint: df shows what is full)",
				lack, state.Called(prev.Version), float64(d.Gain)/1e6)
		}
		return sw.givePreviousUp(prev, lack)
	}
	return nil
}

// makeRoomForDownload gives the kept previous release up if the last attempt ended because
// the download needs its space. The fetcher says how much, so a taken-over one can have
// the release given up; that ends no service.
func (b *beginning) makeRoomForDownload(context.Context) error {
	prev := b.status.Previous
	if prev == nil || b.target.KeepPrevious || b.order.Verb != state.VerbApply || b.order.DryRun {
		return nil
	}
	fetched, err := b.Tree.Status(state.RoleFetch, b.name)
	if err != nil || len(fetched.Attempts) == 0 {
		return err
	}
	need := fetched.Attempts[len(fetched.Attempts)-1].Needs
	disks := state.Disks{}
	own, err := disks.On(b.Tree.Dir(state.RoleFetch, b.name))
	if err != nil {
		return err
	}
	for _, f := range prev.Files {
		if f.Backup == "" {
			continue
		}
		if disk, err := disks.On(filepath.Dir(f.Backup)); err == nil {
			disk.Gain += dirtree.Size(f.Backup)
		}
	}
	free, err := state.Free(own.Dir)
	if err != nil || need <= free || need > free+own.Gain {
		return err
	}
	b.logf("%s: release %s, which was kept for a rollback by command, is given up: the download needs %.1f MB on the disk of %s, and %.1f MB are free",
		b.name, state.Called(prev.Version), float64(need)/1e6, own.Dir, float64(free)/1e6)
	b.status.Previous = nil
	return b.dropPrevious(b.name, prev)
}

// givePreviousUp says so, records that no previous release is kept, and then removes its
// backups. If it is interrupted in between, the next sweep removes the rest.
func (sw *swapping) givePreviousUp(prev *state.Release, lack string) error {
	if sw.known.Order.DryRun {
		return fmt.Errorf("cannot stage the release: %s; apply would give release %s up for them, which is kept for a rollback by command", lack, state.Called(prev.Version))
	}
	text := fmt.Sprintf("release %s, which was kept for a rollback by command, is given up: %s", state.Called(prev.Version), lack)
	sw.logf("%s: %s", describe(sw.journal), text)
	sw.journal.Warn(text)
	sw.attempt.Warning = sw.journal.Warning
	sw.status.Previous = nil
	return sw.dropPrevious(sw.name, prev)
}

func (s *Swapper) dropPrevious(name string, prev *state.Release) (err error) {
	var gone []string
	for n, f := range prev.Files {
		path := f.Backup
		if path != "" && f.Tree != nil && f.Tree.Releases != "" {
			if at, err := dirtree.Follow(f.To); err == nil && at == path {
				continue // somebody has made the link lead there
			}
			if path, err = moveBeside(path, name, "kept", n); err != nil {
				return err
			}
		}
		if path != "" {
			gone = append(gone, path)
		}
	}
	if err := s.Tree.Update(state.RoleSwap, name, func(st *state.Status) { st.Previous = nil }); err != nil {
		return err
	}
	for _, path := range gone {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}
