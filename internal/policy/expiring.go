package policy

import (
	"fmt"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// A warning comes this long before signatures expire. The publisher's timer renews snapshot
// and timestamp each day, for a week; a person signs the other roles.
const (
	noticeOnline = 3 * 24 * time.Hour
	noticePerson = 7 * 24 * time.Hour
)

// Expiring returns the signature that expires first, if it has expired or will soon, and a
// sentence about that; else nil.
func Expiring(signed []state.Signed, now time.Time) (first *state.Signed, warning string) {
	for i, s := range signed {
		notice := noticePerson
		if s.Role == "timestamp" || s.Role == "snapshot" {
			notice = noticeOnline
		}
		if now.Add(notice).After(s.Expires) && (first == nil || s.Expires.Before(first.Expires)) {
			first = &signed[i]
		}
	}
	if first == nil {
		return nil, ""
	}
	what, when := fmt.Sprintf("%s v%d", first.Role, first.Version), first.Expires.Local().Format("2006-01-02 15:04")
	if now.After(first.Expires) {
		return first, what + " has expired on " + when + ": nothing is installed until the publisher signs again"
	}
	return first, what + " expires on " + when + ": nothing is installed after that unless the publisher signs again"
}
