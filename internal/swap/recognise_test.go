package swap

import (
	"os"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestRecognise checks that the release that the last check found counts as installed if
// something else installed it, and that other changes still count as made by hand.
func TestRecognise(t *testing.T) {
	testkit.Slow(t)
	const theirs = "installed by the program's own installer"
	for name, c := range map[string]struct {
		agent    string // content of the main file
		extra    bool   // the optional file is there
		offered  []string
		earlier  string // a file from which the offered release has a delta
		version  string // what the program says of itself
		want     string
		wantVerb state.Verb
	}{
		"the offered release":       {agent: theirs, extra: true, offered: []string{theirs, "extra 1"}, want: "v2", wantVerb: state.VerbApply},
		"without the optional file": {agent: theirs, offered: []string{theirs}, want: "v2", wantVerb: state.VerbApply},
		"lacks the optional file":   {agent: theirs, offered: []string{theirs, "extra 1"}, want: "v1", wantVerb: state.VerbCheck},
		"has more than the release": {agent: theirs, extra: true, offered: []string{theirs}, want: "v1", wantVerb: state.VerbCheck},
		"another file":              {agent: "by hand", extra: true, offered: []string{theirs, "extra 1"}, want: "v1", wantVerb: state.VerbCheck},
		"no list of files":          {agent: theirs, want: "v1", wantVerb: state.VerbCheck},
		"an earlier release":        {agent: theirs, offered: []string{"agent 3"}, earlier: theirs, version: "v1.5", want: "v1.5", wantVerb: state.VerbApply},
		"earlier, but which?":       {agent: theirs, offered: []string{"agent 3"}, earlier: theirs, want: "v1", wantVerb: state.VerbCheck},
		"more than an earlier one":  {agent: theirs, extra: true, offered: []string{"agent 3"}, earlier: theirs, version: "v1.5", want: "v1", wantVerb: state.VerbCheck},
		"no delta from it":          {agent: theirs, offered: []string{"agent 3"}, earlier: "agent 0", version: "v1.5", want: "v1", wantVerb: state.VerbCheck},
		"unchanged":                 {agent: "agent 1", offered: []string{theirs, "extra 1"}, want: "v1", wantVerb: state.VerbApply},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			old := r.status(t)
			o := &state.Offer{Version: "v2", Sequence: 2, Archive: sum("archive")}
			var files []state.File
			for i, content := range c.offered {
				files = append(files, state.File{To: r.at([]string{"bin/agent", "bin/extra"}[i]), SHA256: sum(content)})
			}
			if files != nil {
				files = append(files, state.File{To: r.at("units/agent.service"), SHA256: sum("unit 1")})
				o.Fingerprint = state.Fingerprint(files)
			}
			if c.earlier != "" {
				o.Earlier = []string{sum("another"), sum(c.earlier)}
			}
			if c.version != "" {
				must(t, os.WriteFile(r.at("admin/agent.toml"), []byte("[health]\nversion_command = ['/bin/echo', 'agent "+c.version+"']\n"), 0o644))
			}
			must(t, r.tree.Update(state.RoleFetch, "agent", func(s *state.Status) { s.Offer = o }))
			r.put(t, "bin/agent", file{content: c.agent, mode: 0o755})
			if c.extra {
				r.put(t, "bin/extra", file{content: "extra 1", mode: 0o755})
			}
			r.step(t, "begin")
			st := r.status(t).Installed
			if st.Version != c.want || r.order(t).Verb != c.wantVerb {
				t.Errorf("installed: %+v, order %+v\n%s", st, r.order(t), r.log)
			}
			if c.want == "v2" && (st.Sequence != 2 || st.Archive != sum("archive") || len(st.Files) != len(files) || st.Unsigned != true || r.order(t).Installed != "v2") {
				t.Errorf("installed: %+v, order %+v", st, r.order(t))
			}
			if c.want == "v1" && len(st.Files) != len(old.Installed.Files) {
				t.Errorf("installed: %+v", st)
			}
		})
	}
}

// TestRecogniseTree: a directory that is installed as a whole is compared, too.
func TestRecogniseTree(t *testing.T) {
	for changed, want := range map[bool]string{false: "v2", true: "v1"} {
		r := newRig(t)
		r.withTree(t, keepLine, oldTreeFiles)
		r.put(t, "bin/agent", file{content: "theirs", mode: 0o755})
		tree := state.File{To: r.at("opt/app"), Tree: &state.Directory{Keep: []string{"data", "conf/custom.ini"}}}
		var err error
		tree.SHA256, err = tree.Digest()
		must(t, err)
		files := []state.File{{To: r.at("bin/agent"), SHA256: sum("theirs")}, {To: r.at("units/agent.service"), SHA256: sum("unit 1")}, tree}
		must(t, r.tree.Update(state.RoleFetch, "agent", func(s *state.Status) {
			s.Offer = &state.Offer{Version: "v2", Sequence: 2, Fingerprint: state.Fingerprint(files)}
		}))
		if changed {
			must(t, os.WriteFile(r.at("opt/app/share/a"), []byte("by hand"), 0o644))
		}
		r.step(t, "begin")
		if got := r.status(t).Installed.Version; got != want {
			t.Errorf("changed %v: installed is %s, want %s", changed, got, want)
		}
	}
}

// TestRecogniseListed: files that the release lists are only in its record, so that record
// stays, and a file that was changed by hand remains one.
func TestRecogniseListed(t *testing.T) {
	r := newRig(t)
	r.configure(t, "[install_manifest]\nfile = 'LIST'\noptional = true\n[[install_manifest.type]]\nname = 'bin'\ndirectory = '"+r.at("bin")+"'\nallow = ['listed']\n")
	r.put(t, "bin/listed", file{content: "by hand", mode: 0o755})
	must(t, r.tree.Update(state.RoleSwap, "agent", func(s *state.Status) {
		s.Installed.Files = append(s.Installed.Files, state.File{To: r.at("bin/listed"), SHA256: sum("listed 1")})
	}))
	old := r.status(t).Installed
	fixed := old.Files[:len(old.Files)-1]
	must(t, r.tree.Update(state.RoleFetch, "agent", func(s *state.Status) {
		s.Offer = &state.Offer{Version: "v1", Sequence: 1, Fingerprint: state.Fingerprint(fixed)}
	}))
	r.step(t, "begin")
	if st := r.status(t).Installed; len(st.Files) != len(old.Files) || r.order(t).Verb != state.VerbCheck {
		t.Errorf("installed: %+v, order %+v\n%s", st, r.order(t), r.log)
	}
}
