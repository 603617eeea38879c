package policy

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/version"
)

// TestVersions checks source.versions, and which attempts may install a lower version.
func TestVersions(t *testing.T) {
	const (
		lower = "2.53.9 is lower than the installed 3.5.0, and no schedule goes down (hint: sudo machinemon-update apply agent installs it; source.downgrade = true lets schedules do so)"
		which = " (hint: source.versions of target agent says which releases are taken)"
	)
	schedule, directive, operator := state.Order{Origin: state.OriginSchedule}, state.Order{Origin: state.OriginDirective}, state.Order{Origin: state.OriginOperator}
	unknown := state.Order{}
	brought := state.Order{Origin: state.OriginOperator, URL: "https://example.com/agent.tar.gz"}
	at := func(v string, sequence int64) *state.Release { return &state.Release{Version: v, Sequence: sequence} }
	for _, c := range []struct {
		name      string
		order     state.Order
		installed string
		recorded  *state.Release
		to        string
		sequence  int64
		versions  string
		downgrade bool
		want      string
	}{
		{name: "up", order: schedule, installed: "2.53.9", to: "3.5.0"},
		{name: "down", order: schedule, installed: "3.5.0", to: "2.53.9", want: lower},
		{name: "down, by a directive", order: directive, installed: "3.5.0", to: "2.53.9", want: lower},
		{name: "down, no asker known", order: unknown, installed: "3.5.0", to: "2.53.9", want: lower},
		{name: "down, by a person", order: operator, installed: "3.5.0", to: "2.53.9"},
		{name: "down, allowed", order: schedule, installed: "3.5.0", to: "2.53.9", downgrade: true},
		{name: "to a release candidate", order: schedule, installed: "v3.5.0", to: "v3.5.0-rc.1",
			want: "v3.5.0-rc.1 is lower than the installed v3.5.0, and no schedule goes down" + lower[strings.Index(lower, " (hint"):]},
		{name: "the same with another build", order: schedule, installed: "v1.28.2+k3s2", to: "v1.28.2+k3s1"},
		{name: "no order", order: schedule, installed: "build-82", to: "build-17"},
		{name: "no order of one", order: schedule, installed: "3.5.0", to: "build-82"},
		{name: "nothing known is installed", order: schedule, to: "2.53.9"},

		{name: "withdrawn", order: schedule, installed: "3.5.0", recorded: at("v3.5.0", 11), to: "2.53.9", sequence: 12},
		{name: "not withdrawn", order: schedule, installed: "3.5.0", recorded: at("3.5.0", 11), to: "2.53.9", sequence: 10, want: lower},
		{name: "the same sequence", order: schedule, installed: "3.5.0", recorded: at("3.5.0", 11), to: "2.53.9", sequence: 11, want: lower},
		{name: "installed without a sequence", order: schedule, installed: "3.5.0", recorded: at("3.5.0", 0), to: "2.53.9", sequence: 12, want: lower},
		{name: "offered without a sequence", order: schedule, installed: "3.5.0", recorded: at("3.5.0", 11), to: "2.53.9", want: lower},
		{name: "the record is of another version", order: schedule, installed: "3.5.0", recorded: at("2.0.0", 1), to: "2.53.9", sequence: 12, want: lower},

		{name: "in range", order: schedule, installed: "3.4.0", to: "3.5.0", versions: ">=3, <4"},
		{name: "out of range", order: schedule, installed: "3.5.0", to: "4.0.0", versions: ">=3, <4", want: `4.0.0 is not in source.versions ">=3, <4"` + which},
		{name: "out of range, for a person", order: operator, installed: "3.5.0", to: "4.0.0", versions: ">=3, <4", want: `4.0.0 is not in source.versions ">=3, <4"` + which},
		{name: "out of range, by a higher sequence", order: schedule, installed: "3.5.0", recorded: at("3.5.0", 1), to: "2.53.9", sequence: 2, versions: ">=3, <4",
			want: `2.53.9 is not in source.versions ">=3, <4"` + which},
		{name: "out of range, downgrade allowed", order: schedule, installed: "3.5.0", to: "2.53.9", downgrade: true, versions: ">=3",
			want: `2.53.9 is not in source.versions ">=3"` + which},
		{name: "no order to hold against a range", order: operator, installed: "3.5.0", to: "build-82", versions: ">=3",
			want: `build-82 is not in source.versions ">=3": it has no place in the order of versions` + which},
		{name: "an archive that a person names", order: brought, installed: "3.5.0", to: "2.53.9", versions: ">=3"},
		{name: "in range and down", order: schedule, installed: "3.5.0", to: "2.53.9", versions: ">=2", want: lower},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules := Rules{Target: "agent", Downgrade: c.downgrade, AutoUpdate: true}
			if c.versions != "" {
				r, err := version.ParseRange(c.versions)
				if err != nil {
					t.Fatal(err)
				}
				rules.Versions = r
			}
			c.order.Installed = c.installed
			d := Decide(Known{Rules: rules, Order: c.order, Status: state.Status{Installed: c.recorded}, Release: &Release{Version: c.to, Sequence: c.sequence}})
			if d.String() != c.want || d.Refused() != (c.want != "") {
				t.Errorf("got  %s\nwant %s", d, c.want)
			}
		})
	}
}
