package state

import (
	"maps"
	"strings"
	"time"
)

// Passed maps the keys of probes to when each last passed on this machine, or to the zero
// time. A probe that never passed here may itself be wrong, so it neither proves nor
// condemns a release.
type Passed map[string]time.Time

// Passed returns what the status knows of the probes with these keys.
func (s *Status) Passed(keys []string) Passed {
	p := Passed{}
	for _, k := range keys {
		p[k] = s.Probes[k]
	}
	return p
}

// Any reports whether one of the probes ever passed here.
func (p Passed) Any() bool {
	for _, at := range p {
		if !at.IsZero() {
			return true
		}
	}
	return false
}

// Note records which probes passed, and reports whether any did. It ignores probes whose
// keys are not in p, because the gate's user may only report on those.
func (p Passed) Note(results []ProbeResult) (passed bool) {
	for _, r := range results {
		if _, own := p[r.Key]; own && r.Passed {
			p[r.Key] = time.Now().UTC()
			passed = true
		}
	}
	return passed
}

// Learn records which of a target's present probes passed here, and forgets probes that
// the target no longer has. A pass among the results proves the installed release. The
// journal of an earlier version has a nil p, from which nothing is learned.
func (s *Status) Learn(p Passed, results []ProbeResult) {
	if p == nil {
		return
	}
	if p.Note(results) && s.Installed != nil {
		s.Installed.Unproven = ""
	}
	s.Probes = maps.Clone(p)
	maps.DeleteFunc(s.Probes, func(_ string, at time.Time) bool { return at.IsZero() })
}

const (
	causesRoom = 450 // bytes for all probes in a reason, so that a hint that follows still fits into a record
	causeLeast = 25  // bytes that each probe gets at least
)

// Causes lists the probes that did not pass, each with its cause.
func Causes(probes []ProbeResult) string {
	var causes []string
	for _, p := range probes {
		if !p.Passed {
			causes = append(causes, strings.TrimSuffix(p.Probe+": "+p.Detail, ": "))
		}
	}
	room := max(causeLeast, causesRoom/max(1, len(causes)))
	for i, c := range causes {
		if len(c) > room {
			causes[i] = strings.ToValidUTF8(c[:room], "") + "…"
		}
	}
	return strings.Join(causes, "; ")
}
