package systemd

import "fmt"

const progress = "downloading: %d of %d bytes"

// ProgressText is the STATUS= text of a download.
func ProgressText(done, total int64) string { return fmt.Sprintf(progress, done, total) }

// ParseProgress parses a text of [ProgressText]. It accepts no other text, since the
// STATUS= text comes from another program.
func ParseProgress(status string) (done, total int64, ok bool) {
	if _, err := fmt.Sscanf(status, progress, &done, &total); err != nil {
		return 0, 0, false
	}
	return done, total, 0 <= done && done <= total && total > 0 && status == ProgressText(done, total)
}
