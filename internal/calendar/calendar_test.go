package calendar

import (
	"testing"
	"time"
)

func TestOpen(t *testing.T) {
	for _, c := range []struct{ window, at, open, next string }{ // 2026-11-01 is a Sunday
		{"Sun..Thu 02:00-04:00 UTC", "2026-11-01 02:00", "open", "2026-11-02 02:00"},
		{"Sun..Thu 02:00-04:00 UTC", "2026-11-01 03:59", "open", "2026-11-02 02:00"},
		{"Sun..Thu 02:00-04:00 UTC", "2026-11-01 04:00", "", "2026-11-02 02:00"},
		{"Sun..Thu 02:00-04:00 UTC", "2026-11-06 03:00", "", "2026-11-08 02:00"}, // a Friday
		{"sunday..Thursday 2:00-04:00 UTC", "2026-11-05 03:00", "open", "2026-11-08 02:00"},
		{"Mon,Wed..Fri 02:00-04:00 UTC", "2026-11-03 03:00", "", "2026-11-04 02:00"},
		{"Sat..Mon 02:00-04:00 UTC", "2026-11-01 03:00", "open", "2026-11-02 02:00"},
		{"Fri 22:00-02:00 UTC", "2026-11-06 23:00", "open", "2026-11-13 22:00"},
		{"Fri 22:00-02:00 UTC", "2026-11-07 01:59", "open", "2026-11-13 22:00"},
		{"Fri 22:00-02:00 UTC", "2026-11-06 01:00", "", "2026-11-06 22:00"},
		{"00:00-24:00 UTC", "2026-11-06 23:59", "open", "2026-11-07 00:00"},
		{"Sat 12:00-12:00 UTC", "2026-11-08 11:59", "open", "2026-11-14 12:00"},
		{"02:00-04:00 Europe/Vienna", "2026-11-01 01:30", "open", "2026-11-02 01:00"},
		{"02:00-04:00 Europe/Vienna", "2026-07-01 01:30", "open", "2026-07-02 00:00"},
		{"02:00-04:00 Europe/Vienna", "2026-07-01 02:30", "", "2026-07-02 00:00"},
		{"", "2026-07-01 02:30", "open", "2026-07-01 02:30"},
	} {
		w := Window{}
		if c.window != "" {
			var err error
			if w, err = Parse(c.window); err != nil {
				t.Errorf("%s: %v", c.window, err)
				continue
			}
		}
		at, err := time.Parse("2006-01-02 15:04", c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.Open(at); got != (c.open != "") {
			t.Errorf("%s at %s: open %v", c.window, c.at, got)
		}
		if got := w.Next(at).UTC().Format("2006-01-02 15:04"); got != c.next {
			t.Errorf("%s at %s: opens next %s, want %s", c.window, c.at, got, c.next)
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"Sun..Thu 02:00-04:00":         "Mon,Tue,Wed,Thu,Sun *-*-* 02:00:00",
		"22:30-02:00 Europe/Vienna":    "Mon,Tue,Wed,Thu,Fri,Sat,Sun *-*-* 22:30:00 Europe/Vienna",
		"  saturday   9:05-9:10  UTC ": "Sat *-*-* 09:05:00 UTC",
		"":                             "",
		"Sun..Thu":                     "",
		"Sun..Thu 02:00":               "",
		"02:00-04:60":                  "",
		"24:00-24:00":                  "",
		"02:00-25:00":                  "",
		"Someday 02:00-04:00":          "",
		"Mon.. 02:00-04:00":            "",
		"02:00-04:00 Mars/Base":        "",
		"02:00-04:00 ../../etc/passwd": "",
		"02:00-04:00 Local":            "",
		"Mon 02:00-04:00 UTC more":     "",
		"02:00-04:00 UTC more":         "",
	} {
		w, err := Parse(text)
		if (err == nil) != (want != "") || err == nil && w.OnCalendar() != want {
			t.Errorf("%q: %q, %v, want %q", text, w.OnCalendar(), err, want)
		}
	}
	if w, err := Parse("22:30-02:00"); err != nil || w.Length() != 210*time.Minute {
		t.Errorf("%s, %v", w.Length(), err)
	}
}
