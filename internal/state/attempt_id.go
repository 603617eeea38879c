package state

import (
	"crypto/rand"
	"encoding/hex"
	"regexp"
	"strings"
	"time"
)

// AttemptID names one run of the chain for one target, in its log lines and records,
// and is the name of its spool entry.
type AttemptID string

var attemptName = regexp.MustCompile(`^[0-9a-z-]{1,40}$`)

// Valid reports whether the ID can be one of [NewAttempt], and so a spool entry.
func (id AttemptID) Valid() bool { return attemptName.MatchString(string(id)) }

// NewAttempt makes an ID: the time and eight random digits. While nobody sets the
// clock back IDs sort as their attempts began; two of one target are never within
// a millisecond.
func NewAttempt() AttemptID {
	var b [4]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	now := time.Now().UTC().Format("20060102t150405.000")
	return AttemptID(strings.Replace(now, ".", "", 1) + "-" + hex.EncodeToString(b[:]))
}
