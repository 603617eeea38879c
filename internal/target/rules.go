package target

import "github.com/machinemon/machinemon-update/internal/policy"

// Rules returns the target's rules for [policy.Decide].
func (t *Target) Rules() policy.Rules {
	return policy.Rules{Target: t.Name, AutoUpdate: t.AutoUpdateEnabled, Versions: t.Source.Versions,
		Downgrade: t.Source.Downgrade, ByVersion: t.Trust.ByVersion() && t.Source.Tag == "", CheckEvery: t.CheckEvery, Window: t.Window}
}
