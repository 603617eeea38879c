package download

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestRateLimited(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 5, time.UTC)
	at := func(d time.Duration) time.Time { return now.Truncate(time.Second).Add(d) }
	for _, c := range []struct {
		name   string
		status int
		header http.Header
		want   time.Time
	}{
		{"GitHub's", 403, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {fmt.Sprint(at(time.Hour).Unix())}}, at(time.Hour)},
		{"the same with 429", 429, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {fmt.Sprint(at(time.Hour).Unix())}}, at(time.Hour)},
		{"in the past", 403, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"0"}}, at(0)},
		{"in 2100", 403, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"4102444800"}}, at(24 * time.Hour)},
		{"at the end of time", 403, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"9223372036854775807"}}, at(24 * time.Hour)},
		{"seconds", 429, http.Header{"Retry-After": {"90"}}, at(90 * time.Second)},
		{"many seconds", 429, http.Header{"Retry-After": {"2147483647"}}, at(24 * time.Hour)},
		{"minus", 429, http.Header{"Retry-After": {"-9"}}, at(0)},
		{"a date", 403, http.Header{"Retry-After": {at(time.Hour).Format(http.TimeFormat)}}, at(time.Hour)},
		{"requests left", 403, http.Header{"X-Ratelimit-Remaining": {"1"}, "X-Ratelimit-Reset": {"4102444800"}}, time.Time{}},
		{"no time", 403, http.Header{"X-Ratelimit-Remaining": {"0"}}, time.Time{}},
		{"garbage", 429, http.Header{"Retry-After": {"\x1b[31m"}}, at(time.Minute)},
		{"too many, without a time", 429, nil, at(time.Minute)},
		{"garbage and another status", 403, http.Header{"Retry-After": {"\x1b[31m"}}, time.Time{}},
		{"unavailable", 503, http.Header{"Retry-After": {"90"}}, at(90 * time.Second)},
		{"forbidden", 403, nil, time.Time{}},
		{"another status", 500, http.Header{"Retry-After": {"90"}}, time.Time{}},
	} {
		var got time.Time
		if l := rateLimited(&http.Response{StatusCode: c.status, Header: c.header}, now); l != nil {
			got = l.Until
		}
		if !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
