package download

import (
	"os"
	"path/filepath"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	// oldest is how long an incomplete archive is kept after its last bytes came.
	oldest = 7 * 24 * time.Hour
	// plenty is the free space in bytes that is enough on any disk.
	plenty = 1 << 30
)

// worthKeeping reports whether an incomplete archive in dir may stay between attempts. It
// may not if it is old, or if the disk is too full.
//
// The fetchers of all targets store their archives on one disk, and each knows only its
// own directory. But what the others keep is missing from the free space that each sees,
// so this bounds the sum: the archives that are kept never take the last gigabyte, nor
// more than half of a small disk. An archive that a killed fetcher left is judged when the
// target's next attempt begins.
func worthKeeping(dir string) bool {
	info, err := os.Lstat(filepath.Join(dir, partialName))
	if err != nil || time.Since(info.ModTime()) > oldest {
		return false
	}
	free, size, err := state.Space(dir)
	return err == nil && roomy(free, size)
}

// roomy reports whether a disk of this size with so many free bytes has room for archives
// that are only kept to save a download.
func roomy(free, size int64) bool { return free >= min(plenty, size/2) }
