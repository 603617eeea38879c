package policy

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

// TestReplayed checks which releases a person's attempt installs if only the version shows
// that a release is not an old one.
func TestReplayed(t *testing.T) {
	for _, c := range []struct {
		to, from string
		change   func(k *Known)
		reason   string // "": installed
	}{
		{to: "v1.2.0", from: "v1.1.0"},
		{to: "v1.2.0", from: ""},
		{to: "build-18", from: ""},
		{to: "v1.0.0", from: "v1.1.0", reason: "v1.0.0 is lower than the installed v1.1.0, and its signature does not forbid to bring back an old release (hint: source.downgrade = true, or source.tag, allows it)"},
		{to: "build-18", from: "build-17", reason: "nothing shows that build-18 is not older than the installed build-17"},
		{to: "v1.2.0", from: "build-17", reason: "nothing shows that v1.2.0 is not older"},
		{to: "build-18", from: "v1.1.0", reason: "nothing shows that build-18 is not older"},
		{to: "build-17", from: "build-17", change: func(k *Known) { k.Order.Missing = "/usr/local/bin/agentctl" }},
		{to: "v1.0.0", from: "v1.1.0", change: func(k *Known) { k.Rules.Downgrade = true }},
		{to: "v1.0.0", from: "v1.1.0", change: func(k *Known) { k.Order.Import = true }},
		{to: "v1.0.0", from: "v1.1.0", change: func(k *Known) { k.Rules.ByVersion = false }},
	} {
		k := Known{Rules: Rules{Target: "agent", ByVersion: true}, Release: &Release{Version: c.to},
			Order: state.Order{Origin: state.OriginOperator, Verb: state.VerbApply, Installed: c.from}}
		if c.change != nil {
			c.change(&k)
		}
		if d := Decide(k); !strings.HasPrefix(d.String(), c.reason) || d.Refused() != (c.reason != "") {
			t.Errorf("%s after %s: %+v, want %q", c.to, c.from, d, c.reason)
		}
	}
}
