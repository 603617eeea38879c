package swap

import (
	"strings"

	"github.com/machinemon/machinemon-update/internal/state"
)

// endDryRun ends an attempt before the swap, with what was found out. Nothing was changed
// yet; what was staged is swept up as after a failure.
func (sw *swapping) endDryRun(text string) {
	sw.attempt.Result, sw.attempt.Reason = state.ResultAvailable, "dry run: "+text
	sw.attempt.Warning = sw.journal.Warning
}

// intends returns, for people, what the swap would do.
func (sw *swapping) intends() string {
	var steps []string
	j, of := sw.journal, map[string][]string{}
	if j.Stopped {
		steps = append(steps, "stop "+named(j))
	}
	for _, c := range j.Changes {
		do := "replace "
		switch {
		case c.Kind == state.KindSnapshot:
			do = "save "
		case c.Kind == state.KindRemove:
			do = "remove "
		case c.Old == c.New:
			continue
		case c.Old == "":
			do = "create "
		}
		of[do] = append(of[do], c.To)
	}
	if sw.program != "" {
		of["run "] = append(of["run "], sw.target.Hooks.FromRelease[0]+" of the release")
	}
	if hook := sw.target.Hooks.PreSwap; len(hook) > 0 {
		of["run "] = append(of["run "], hook[0])
	}
	for _, do := range []string{"save ", "run ", "replace ", "create ", "remove "} {
		if len(of[do]) > 0 {
			steps = append(steps, do+strings.Join(of[do], " and "))
		}
	}
	return strings.Join(append(steps, renewal(j)), ", ")
}
