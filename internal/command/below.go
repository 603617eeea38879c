package command

import (
	"strings"

	"github.com/machinemon/machinemon-update/internal/state"
)

// below is what status and history say of an attempt on lines of their own, below
// its reason.
func below(at state.Attempt) (notes []string) {
	if at.Unhealthy != "" {
		notes = append(notes, at.Aftermath())
	}
	return notes
}

// told is what the server is told of an attempt, the most important first: the line
// to it is short.
func told(at state.Attempt) string {
	s := at.Reason
	if at.Unhealthy != "" {
		s += "; " + at.Aftermath()
	}
	return strings.TrimPrefix(s, "; ")
}
