package gate

import (
	"encoding/json"
	"path"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
)

// directive returns the members of a client's directive; none if it is not to update.
// base is the URL of the directory from which the client downloads.
func (g *Gate) directive(m *manifest.Manifest, r report, base string) []member {
	if d, meant := decide(m, r); g.stopped() || !meant || d.Refused() {
		return nil
	}
	p := m.Platforms[platform(r)]
	url := p.File
	if manifest.ValidFile(p.File) {
		url = base + path.Join(path.Dir(g.config.Manifest), p.File)
	}
	g.count.directives.Add(1)
	value := func(v any) json.RawMessage {
		raw, _ := json.Marshal(v) // cannot fail for a string or a number
		return raw
	}
	return []member{{"update_version", value(m.Version)}, {"update_url", value(url)}, {"update_sha256", value(p.SHA256)}, {"update_size", value(p.Size)}}
}

// available reports whether there is another version for a client, which may have to
// wait for it.
func available(m *manifest.Manifest, r report) bool {
	d, meant := decide(m, r)
	return meant && (!d.Refused() || d.Rule == policy.RuleRollout)
}

// decide asks the policy. What only the client knows, such as whether it may go down,
// the client decides. So does a client without an ID for rollouts, whose machine has an
// older updater, or none. A release is not meant for a client of another platform, or for
// one that does not tell its own version.
func decide(m *manifest.Manifest, r report) (d policy.Decision, meant bool) {
	if m == nil {
		return d, false
	}
	return decideAt(m, r, place(m, r))
}

// place returns the place of a client's machine in the rollout of a release.
func place(m *manifest.Manifest, r report) int {
	if r.Lot == "" {
		return 0
	}
	return rollout.Place(r.Lot, m.Version)
}

// decideAt is decide for a machine with this place.
func decideAt(m *manifest.Manifest, r report, place int) (d policy.Decision, meant bool) {
	if r.Version == "" {
		return d, false
	}
	_, meant = m.Platforms[platform(r)]
	return policy.Decide(policy.Known{
		Rules:   policy.Rules{AutoUpdate: true, Downgrade: true},
		Order:   state.Order{Origin: state.OriginDirective, Verb: state.VerbApply, Installed: r.Version},
		Release: &policy.Release{Version: m.Version, Disabled: m.Disabled, NotYet: policy.NotYet(m.Rollout, place)},
	}), meant
}

// platform returns a client's platform key in a manifest. Clients report Go's "arm"
// without the version; armv6 programs run on armv7, too.
func platform(r report) string {
	if r.Arch == "arm" {
		return r.OS + "-armv6"
	}
	return r.OS + "-" + r.Arch
}
