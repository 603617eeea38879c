package systemd

import "fmt"

const progress = "downloading: %d of %d bytes"

// ProgressText is the STATUS= text of a download.
func ProgressText(done, total int64) string { return fmt.Sprintf(progress, done, total) }

// ParseProgress reads it back, for a progress bar. The text is another
// program's: only one that ProgressText would make is progress.
func ParseProgress(status string) (done, total int64, ok bool) {
	if _, err := fmt.Sscanf(status, progress, &done, &total); err != nil {
		return 0, 0, false
	}
	return done, total, 0 <= done && done <= total && total > 0 && status == ProgressText(done, total)
}
