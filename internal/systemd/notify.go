package systemd

import (
	"fmt"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notify sets the unit's STATUS= text, which `systemctl status` shows. Outside
// a unit that listens it does nothing.
func Notify(status string) error {
	_, err := daemon.SdNotify(false, "STATUS="+status)
	return err
}

const progress = "downloading: %d of %d bytes"

// ProgressText is the STATUS= text of a download.
func ProgressText(done, total int64) string { return fmt.Sprintf(progress, done, total) }

// ParseProgress reads it back, for a progress bar.
func ParseProgress(status string) (done, total int64, ok bool) {
	n, err := fmt.Sscanf(status, progress, &done, &total)
	return done, total, err == nil && n == 2 && total > 0
}
