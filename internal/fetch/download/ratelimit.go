package download

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// longestRateLimit bounds the wait that a server asks for: a server that names the year
// 2100 must not end all updates.
const longestRateLimit = 24 * time.Hour

// RateLimit is the error of a server that accepts no more requests for a while.
type RateLimit struct {
	status int
	Until  time.Time
}

func (l *RateLimit) Error() string {
	return fmt.Sprintf("the server answered %d %s: it takes no more requests until %s",
		l.status, http.StatusText(l.status), l.Until.Format("2006-01-02 15:04:05 UTC"))
}

// unknownRateLimit is how long GitHub asks clients to wait after an answer without a time.
const unknownRateLimit = time.Minute

// rateLimited returns the limit in Retry-After of RFC 9110, or in the headers of GitHub's
// API if that is missing. It returns nil for any other answer, except that a 429 without a
// time is a limit, too.
func rateLimited(resp *http.Response, now time.Time) *RateLimit {
	if !slices.Contains([]int{http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable}, resp.StatusCode) {
		return nil
	}
	at, told := limitEnd(resp.Header, now)
	if !told && resp.StatusCode != http.StatusTooManyRequests {
		return nil
	}
	latest := now.Add(longestRateLimit).Unix()
	return &RateLimit{resp.StatusCode, time.Unix(min(max(at, now.Unix()), latest), 0).UTC()}
}

// limitEnd returns when a server accepts requests again, in seconds, and whether its answer
// says so.
func limitEnd(h http.Header, now time.Time) (at int64, told bool) {
	after := h.Get("Retry-After")
	if date, err := http.ParseTime(after); err == nil {
		return date.Unix(), true
	}
	if seconds, err := strconv.ParseInt(after, 10, 32); err == nil {
		return now.Unix() + seconds, true
	}
	reset, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64)
	if err == nil && after == "" && h.Get("X-RateLimit-Remaining") == "0" {
		return reset, true
	}
	return now.Add(unknownRateLimit).Unix(), false
}
