package state

import (
	"crypto/rand"
	"encoding/hex"
	"regexp"
	"strings"
	"time"
)

// AttemptID names one attempt for one target in log lines and records. It is also the name
// of the attempt's spool entry.
type AttemptID string

var attemptName = regexp.MustCompile(`^[0-9a-z-]{1,40}$`)

// Valid reports whether the ID has the form of [NewAttempt], as names of spool entries do.
func (id AttemptID) Valid() bool { return attemptName.MatchString(string(id)) }

// NewAttempt makes an ID from the time and eight random digits. Unless the clock is set
// back, IDs sort in the order in which their attempts began; two attempts of one target
// never begin within the same millisecond.
func NewAttempt() AttemptID {
	var b [4]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	now := time.Now().UTC().Format("20060102t150405.000")
	return AttemptID(strings.Replace(now, ".", "", 1) + "-" + hex.EncodeToString(b[:]))
}
