// Package calendar reads windows of the week in systemd's words, such as
// "Sun..Thu 02:00-04:00 Europe/Vienna": days as in systemd.time(7), a time from and to, and
// perhaps a time zone. It is pure, but for the files of the time zones.
package calendar

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Window is a time that comes every week, on some of its days. The zero Window is always
// open.
type Window struct {
	text     string
	days     [7]bool // on which it opens, by [time.Weekday]
	from, to int     // in minutes since midnight; to is after from, and may be on the next day
	zone     *time.Location
}

// maxText is the greatest length of a window's text in bytes.
const maxText = 200

const (
	minute = 1
	hour   = 60 * minute
	day    = 24 * hour
)

var (
	times    = regexp.MustCompile(`^([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})$`)
	zoneName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$`)
)

// Parse reads "[DAYS] HH:MM-HH:MM [ZONE]". DAYS are names of days and ranges of them, such as
// Mon,Wed..Fri; without them, every day. A time to that is not after the time from is that of
// the next day. ZONE is UTC or a name such as Europe/Vienna; without it, the machine's.
func Parse(text string) (w Window, err error) {
	words := strings.Fields(text)
	if len(text) > maxText || len(words) == 0 || len(words) > 3 {
		return Window{}, errors.New("it has no days and times")
	}
	w = Window{text: strings.Join(words, " "), zone: time.Local}
	if times.MatchString(words[0]) {
		for i := range w.days {
			w.days[i] = true
		}
	} else {
		if w.days, err = days(words[0]); err != nil {
			return Window{}, err
		}
		words = words[1:]
	}
	if len(words) == 0 {
		return Window{}, errors.New("it has no times")
	}
	found := times.FindStringSubmatch(words[0])
	if found == nil {
		return Window{}, fmt.Errorf("%q is no time from and to", words[0])
	}
	var n [4]int
	for i := range n {
		n[i], _ = strconv.Atoi(found[i+1]) // only digits match
	}
	w.from, w.to = n[0]*hour+n[1], n[2]*hour+n[3]
	if n[1] > 59 || n[3] > 59 || w.from >= day || w.to > day {
		return Window{}, fmt.Errorf("%q has a time that no day has", words[0])
	}
	if w.to <= w.from {
		w.to += day
	}
	if len(words) == 1 {
		return w, nil
	}
	if len(words) > 2 || !zoneName.MatchString(words[1]) || words[1] == "Local" {
		return Window{}, fmt.Errorf("%q is no time zone", strings.Join(words[1:], " "))
	}
	if w.zone, err = time.LoadLocation(words[1]); err != nil {
		return Window{}, fmt.Errorf("%q is no time zone of this machine", words[1])
	}
	return w, nil
}

var names = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// days reads names of days and ranges of them.
func days(text string) (set [7]bool, err error) {
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "..")
		if !isRange {
			last = first
		}
		a, b := dayOf(first), dayOf(last)
		if a < 0 || b < 0 {
			return set, fmt.Errorf("%q is no day of the week", part)
		}
		for set[a] = true; a != b; set[a] = true {
			a = (a + 1) % len(set)
		}
	}
	return set, nil
}

// dayOf returns the day with this name, whole or of three letters; -1 if there is none.
func dayOf(name string) int {
	name = strings.ToLower(name)
	return slices.IndexFunc(names, func(short string) bool {
		whole := strings.ToLower(time.Weekday(slices.Index(names, short)).String())
		return name == short || name == whole
	})
}

// Always reports whether the window never closes because there is none.
func (w Window) Always() bool { return w.text == "" }

// String returns the window's text.
func (w Window) String() string { return w.text }

// Open reports whether the window is open at a time.
func (w Window) Open(now time.Time) bool {
	if w.Always() {
		return true
	}
	now = now.In(w.zone)
	at := now.Hour()*hour + now.Minute()
	today, yesterday := now.Weekday(), (now.Weekday()+6)%7
	return w.days[today] && w.from <= at && at < w.to || w.days[yesterday] && at+day < w.to
}

// Next returns when the window opens next after a time.
func (w Window) Next(now time.Time) time.Time {
	if w.Always() {
		return now
	}
	now = now.In(w.zone)
	for i := range 9 {
		at := time.Date(now.Year(), now.Month(), now.Day()+i, w.from/hour, w.from%hour, 0, 0, w.zone)
		if at.After(now) && w.days[at.Weekday()] {
			return at
		}
	}
	return time.Time{} // a window opens on one day of the week at least
}

// Length returns how long the window stays open.
func (w Window) Length() time.Duration { return time.Duration(w.to-w.from) * time.Minute }

// OnCalendar returns the opening as a value of OnCalendar= of systemd.timer(5).
func (w Window) OnCalendar() string {
	var on []string
	for i := range w.days {
		if monday := (i + 1) % 7; w.days[monday] {
			on = append(on, time.Weekday(monday).String()[:3])
		}
	}
	text := fmt.Sprintf("%s *-*-* %02d:%02d:00", strings.Join(on, ","), w.from/hour, w.from%hour)
	if w.zone != time.Local {
		text += " " + w.zone.String()
	}
	return text
}
