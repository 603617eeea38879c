package target

import (
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/policy"
)

// Rules returns the target's rules for [policy.Decide].
func (t *Target) Rules() policy.Rules {
	return policy.Rules{Target: t.Name, AutoUpdate: t.AutoUpdateEnabled, Versions: t.Source.Versions,
		Downgrade: t.Source.Downgrade, ByVersion: t.Trust.ByVersion() && t.Source.Tag == "", CheckEvery: t.CheckEvery, Window: t.Window, Changed: t.changed()}
}

// changed returns when a fragment, or a directory of one, was changed last. That is the time
// of the change itself, which a copy with an old modification time does not hide. A fragment
// that has gone since it was read does not count: its directory does.
func (t *Target) changed() (last time.Time) {
	for _, f := range t.Fragments {
		for _, path := range []string{f, filepath.Dir(f)} {
			info, err := os.Lstat(t.check.root + path)
			if err != nil {
				continue
			}
			if at := time.Unix(info.Sys().(*syscall.Stat_t).Ctim.Unix()); at.After(last) {
				last = at
			}
		}
	}
	return last
}
