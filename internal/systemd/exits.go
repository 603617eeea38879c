package systemd

import "slices"

// Exits is a set of exit statuses and signals, as RestartForceExitStatus= and
// SuccessExitStatus= of systemd.service(5) list them.
type Exits struct{ Statuses, Signals []int32 }

// Empty reports whether the set has no element.
func (e Exits) Empty() bool { return len(e.Statuses)+len(e.Signals) == 0 }

// Name reports whether the set contains the end of a process; code is a CLD_ code of
// waitid(2), value the exit status or the signal.
func (e Exits) Name(code, value int32) bool {
	switch code {
	case Exited:
		return slices.Contains(e.Statuses, value)
	case Killed, Dumped:
		return slices.Contains(e.Signals, value)
	}
	return false
}

// Declares reports whether the unit file lists this end of its main process.
func (u Unit) Declares(code, value int32) bool {
	return u.Forced.Name(code, value) || u.Clean.Name(code, value)
}

// exits reads a property of type (aiai).
func exits(property any) Exits {
	var e Exits
	if pair, ok := property.([]any); ok && len(pair) == 2 {
		e.Statuses, _ = pair[0].([]int32)
		e.Signals, _ = pair[1].([]int32)
	}
	return e
}
