package trust

import (
	"strconv"
	"sync"
	"time"
)

// built is set by the linker: the time of the newest entry of debian/changelog, in
// seconds since 1970. It is the same in every build of a version.
var built string

// Built returns when this program was built, for [Client]; the zero time if the
// linker did not set it.
var Built = sync.OnceValue(func() time.Time { return parseBuilt(built) })

func parseBuilt(s string) time.Time {
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}
