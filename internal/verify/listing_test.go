package verify

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// TestListing checks that the files that the release's list names are unpacked, others
// not, and that a list that demands too much is refused.
func TestListing(t *testing.T) {
	good := files{"LIST": "bin:tool\n", "tool": "#!/bin/sh\n", "spare": "#!/bin/sh\n", "x/tool": "deep"}
	for name, c := range map[string]struct {
		more     files
		edit     func(*bench)
		result   state.Result
		text     string
		unpacked []string
	}{
		"listed":                       {good, nil, state.ResultHandedOn, "", []string{"LIST", "agent-v2", "agent.service", "tool"}},
		"no list":                      {files{"tool": "x"}, nil, state.ResultHandedOn, "", []string{"agent-v2", "agent.service"}},
		"list needed":                  {nil, func(b *bench) { b.target.Listing.Optional = false }, state.ResultRefused, "the archive has no LIST", nil},
		"not there":                    {files{"LIST": "bin:spare\nbin:tool"}, nil, state.ResultRefused, "the archive has no spare, no tool", nil},
		"not allowed":                  {files{"LIST": "bin:agent"}, nil, state.ResultRefused, `cannot use LIST of agent.tar.gz: line 1 "bin:agent" is not among`, nil},
		"excluded":                     {files{"LIST": "bin:tool-update", "tool-update": "x"}, nil, state.ResultHandedOn, "", []string{"LIST", "agent-v2", "agent.service", "tool-update"}}, // for its digest
		"excluded, not listed":         {files{"LIST": "bin:tool", "tool": "x", "tool-update": "x"}, nil, state.ResultHandedOn, "", []string{"LIST", "agent-v2", "agent.service", "tool"}},
		"excluded, not in the archive": {files{"LIST": "bin:tool-update"}, nil, state.ResultHandedOn, "", []string{"LIST", "agent-v2", "agent.service"}},
		"excluded, not in the contents": {files{"LIST": "bin:tool-update", "tool-update": "x"}, func(b *bench) {
			b.bundle.platform(func(p *manifest.Platform) { delete(p.Contents, "tool-update") })
		}, state.ResultHandedOn, "", []string{"LIST", "agent-v2", "agent.service"}},
		"from_release": {files{"migrate": "#!/bin/sh\n"}, func(b *bench) { b.target.Hooks.FromRelease = []string{"migrate", "-v"} },
			state.ResultHandedOn, "", []string{"agent-v2", "agent.service", "migrate"}},
		"from_release, foreign": {files{"migrate": foreign(t)}, func(b *bench) { b.target.Hooks.FromRelease = []string{"migrate"} },
			state.ResultRefused, "its entry migrate: built for", nil},
		"from_release, not in the contents": {files{"migrate": "x"}, func(b *bench) {
			b.target.Hooks.FromRelease = []string{"migrate"}
			b.bundle.platform(func(p *manifest.Platform) { delete(p.Contents, "migrate") })
		}, state.ResultRefused, "do not list its entry migrate", nil},
		"no contents": {good, func(b *bench) { b.bundle.platform(func(p *manifest.Platform) { p.Contents = nil }) }, state.ResultHandedOn, "", []string{"LIST", "agent-v2", "agent.service", "tool"}},
		"other list": {good, func(b *bench) {
			b.bundle.platform(func(p *manifest.Platform) { p.Contents["LIST"] = p.Contents["tool"] })
		}, state.ResultRefused, "its entry LIST is not the one", nil},
		"other tool":   {good, func(b *bench) { b.bundle.platform(func(p *manifest.Platform) { delete(p.Contents, "tool") }) }, state.ResultRefused, "do not list its entry tool", nil},
		"foreign tool": {files{"LIST": "bin:tool", "tool": foreign(t)}, nil, state.ResultRefused, "its entry tool: built for", nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.target.Listing = &target.Listing{File: "LIST", Optional: true, Types: []target.ListedType{
				{Name: "bin", Directory: filepath.Join(b.root, "bin"), Mode: 0o755, Allow: []string{"tool*", "spare"}, Exclude: []string{"tool-update"}}}}
			for entry, content := range c.more {
				b.bundle.content[entry] = content
			}
			b.bundle.repack(t)
			if c.edit != nil {
				c.edit(b)
			}
			b.hand(t)
			b.mustRecord(t, b.run(t), c.result, c.text)
			if c.result != state.ResultHandedOn {
				return
			}
			entry, err := os.OpenRoot(filepath.Join(b.out(), attempt))
			must(t, err)
			defer entry.Close()
			receipt, err := (&state.Bundle{Root: entry}).Receipt()
			must(t, err)
			var unpacked []string
			for _, f := range receipt.Files {
				unpacked = append(unpacked, f.Entry)
				if got, err := entry.ReadFile(f.Name); err != nil || string(got) != b.bundle.content[f.Entry] {
					t.Errorf("%s: %v", f.Entry, err)
				}
			}
			slices.Sort(unpacked)
			if !slices.Equal(unpacked, c.unpacked) || len(ls(t, entry.Name())) != len(unpacked)+2 {
				t.Errorf("unpacked %q, in the tree %q", unpacked, ls(t, entry.Name()))
			}
		})
	}
}
