package verify

import (
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// TestSee: a check hands nothing on, and remembers which files of the archive are left out.
func TestSee(t *testing.T) {
	const update = "#!/bin/sh\nmigrate\n"
	for name, c := range map[string]struct {
		more    files
		edit    func(b *bench)
		verb    state.Verb
		result  state.Result
		text    string
		warning string
		seen    map[string]string // nil if nothing is remembered
	}{
		"check": {files{"LIST": "bin:tool-update\n", "tool-update": update, "other-update": "x"}, nil, state.VerbCheck,
			state.ResultAvailable, "", "", map[string]string{"tool-update": manifest.Digest([]byte(update))}},
		"apply": {files{"LIST": "bin:tool-update\n", "tool-update": update}, nil, state.VerbApply,
			state.ResultHandedOn, "", "", map[string]string{"tool-update": manifest.Digest([]byte(update))}},
		"no list": {files{"tool-update": update}, nil, state.VerbCheck, state.ResultAvailable, "", "", map[string]string{}},
		"it would be refused": {files{"LIST": "etc:x\n"}, nil, state.VerbCheck,
			state.ResultRefused, "cannot use LIST of agent.tar.gz: ", "", nil},
		"no room": {files{"LIST": "bin:tool-update\n", "tool-update": update}, func(b *bench) {
			b.bundle.platform(func(p *manifest.Platform) { p.UnpackedSize = 1 << 40 })
		}, state.VerbCheck, state.ResultAvailable, "", "whether a script that the target leaves out has changed is not known: cannot unpack agent.tar.gz: it needs ", nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.target.Listing = &target.Listing{File: "LIST", Optional: true, Types: []target.ListedType{
				{Name: "bin", Directory: filepath.Join(b.root, "bin"), Mode: 0o755, Allow: []string{"*"}, Exclude: []string{"*-update"}}}}
			maps.Copy(b.bundle.content, c.more)
			b.bundle.repack(t)
			b.bundle.platform(func(p *manifest.Platform) { p.Contents = nil })
			if c.edit != nil {
				c.edit(b)
			}
			must(t, b.tree.SetOrder("agent", state.Order{Attempt: attempt, Origin: state.OriginOperator, Verb: c.verb, Installed: "v1"}))
			b.hand(t)
			a := b.run(t)
			if a.Result != c.result || !strings.Contains(a.Reason, c.text) || !strings.HasPrefix(a.Warning, c.warning) || c.warning == "" && a.Warning != "" {
				t.Errorf("%+v", a)
			}
			if handed, err := b.tree.Pending(state.RoleVerify, "agent"); err != nil || handed != (c.result == state.ResultHandedOn) {
				t.Errorf("handed on: %v, %v", handed, err)
			}
			s, err := b.tree.Status(state.RoleVerify, "agent")
			must(t, err)
			if c.seen == nil {
				if s.Inside != nil {
					t.Errorf("it remembers %+v", s.Inside)
				}
				return
			}
			p, err := b.bundle.manifest.Platform(manifest.Host())
			must(t, err)
			if s.Inside == nil || s.Inside.Of != b.target.InsideOf(p) || !maps.Equal(s.Inside.LeftOut, c.seen) {
				t.Errorf("it remembers %+v, want %v", s.Inside, c.seen)
			}
		})
	}
}
