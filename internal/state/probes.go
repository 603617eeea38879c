package state

import (
	"strings"
	"time"
)

// Passed says of probes, by their keys, when each last passed here; the zero time
// of those that never did. A probe that never passed here may itself be wrong, and
// so neither proves a release nor condemns one.
type Passed map[string]time.Time

// Passed is what is remembered of the probes with these keys.
func (s *Status) Passed(keys []string) Passed {
	p := Passed{}
	for _, k := range keys {
		p[k] = s.Probes[k]
	}
	return p
}

// Any reports whether one of the probes has passed here.
func (p Passed) Any() bool {
	for _, at := range p {
		if !at.IsZero() {
			return true
		}
	}
	return false
}

// Note takes in what the gate has found, and reports whether one of the probes
// passed. The gate's user is believed about no other probe than these.
func (p Passed) Note(results []ProbeResult) (passed bool) {
	for _, r := range results {
		if _, own := p[r.Key]; own && r.Passed {
			p[r.Key] = time.Now().UTC()
			passed = true
		}
	}
	return passed
}

// Learn keeps which of a target's present probes have passed here, and forgets
// probes that it has no more. A pass among the results proves what is installed.
// The journal of an earlier version has no p, and teaches nothing.
func (s *Status) Learn(p Passed, results []ProbeResult) {
	if p == nil {
		return
	}
	if p.Note(results) && s.Installed != nil {
		s.Installed.Unproven = ""
	}
	s.Probes = map[string]time.Time{}
	for k, at := range p {
		if !at.IsZero() {
			s.Probes[k] = at
		}
	}
}

const (
	causesRoom = 450 // bytes in which a reason lists probes: a hint follows, and a record keeps both
	causeLeast = 25  // bytes of the room that each probe gets
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
