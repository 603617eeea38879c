package swap

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// signed returns a rig whose target has signed releases. The repository has published v1,
// which is installed.
func signed(t *testing.T) (*rig, *trusttest.Repo) {
	t.Helper()
	return signedBelow(t, base)
}

func signedBelow(t *testing.T, base string) (*rig, *trusttest.Repo) {
	t.Helper()
	r := newRigBelow(t, base)
	r.configure(t, "[trust]\nmode = 'tuf'\nproduct = 'agent'\n")
	repo := trusttest.New(t, &manifest.Manifest{Schema: 1, Product: "agent", Version: "v1", Sequence: 1,
		Platforms: map[string]manifest.Platform{manifest.Host(): {File: "a.tar.gz", SHA256: sum("v1"), Size: 1}}})
	r.pin(t, repo)
	return r, repo
}

func (r *rig) pin(t *testing.T, repo *trusttest.Repo) {
	t.Helper()
	must(t, os.MkdirAll(r.at("trust"), 0o755))
	must(t, os.WriteFile(r.at("trust/agent.root.json"), repo.Pin, 0o644))
}

// offerSigned publishes a release in the repository and offers it. change is as for
// spool; alter damages the entry when it is complete.
func (r *rig) offerSigned(t *testing.T, repo *trusttest.Repo, attempt state.AttemptID, version string, sequence int64, files map[string]string,
	change func(m *manifest.Manifest), alter func(entry string, m *manifest.Manifest)) {
	t.Helper()
	must(t, r.tree.SetOrder("agent", state.Order{Attempt: attempt, Origin: state.OriginOperator, Verb: state.VerbApply, Installed: r.status(t).Installed.Version}))
	must(t, look(r.tree, state.Baseline{Attempt: attempt, Standing: true}))
	r.spool(t, attempt, version, sequence, files, func(entry string, m *manifest.Manifest) {
		if change != nil {
			change(m)
		}
		repo.Publish(m)
		metadata(t, entry, repo.Bundle(1))
		if alter != nil {
			alter(entry, m)
		}
	})
}

func metadata(t *testing.T, entry string, b trust.Metadata) {
	t.Helper()
	raw, err := b.Encode()
	must(t, err)
	must(t, os.WriteFile(entry+"/metadata.json", raw, 0o640))
}

// knows makes root store what the repository has now.
func (r *rig) knows(t *testing.T, repo *trusttest.Repo) {
	t.Helper()
	_, known, err := trust.Client{Pin: repo.Pin, Clock: time.Now()}.Check(repo.Bundle(1))
	must(t, err)
	must(t, r.tree.SetTrust(state.RoleSwap, "agent", known))
}

func (r *rig) known(t *testing.T) (s trust.State) {
	t.Helper()
	must(t, r.tree.Trust(state.RoleSwap, "agent", &s))
	return s
}

func (r *rig) floor(t *testing.T) int64 {
	t.Helper()
	floor, err := r.tree.Floor("agent")
	must(t, err)
	return floor
}

// commit takes the offered release through its trial.
func (r *rig) commit(t *testing.T, attempt state.AttemptID) {
	t.Helper()
	r.step(t, "swap")
	r.gate(t, attempt, state.FindingHealthy, "")
	r.step(t, "commit")
	r.ended(t, attempt, state.ResultCommitted)
	r.closed(t)
}

// TestSigned checks that a signed release is installed and recorded as signed.
func TestSigned(t *testing.T) {
	testkit.Slow(t)
	r, repo := signed(t)
	r.offerSigned(t, repo, "a1", "v2", 2, release2, nil, nil)
	r.step(t, "swap")
	j, err := r.tree.Journal("agent")
	must(t, err)
	if j.Unsigned || r.floor(t) != 0 {
		t.Errorf("unsigned %v, floor %d before the verdict", j.Unsigned, r.floor(t))
	}
	r.gate(t, "a1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.want(t, newFiles)
	if st := r.status(t); st.Installed.Unsigned {
		t.Errorf("installed %+v", st.Installed)
	}
	if r.floor(t) != 2 || r.known(t).Pin != manifest.Digest(repo.Pin) {
		t.Errorf("floor %d, pin %s", r.floor(t), r.known(t).Pin)
	}

	// The operator goes back to a release below the floor, which stays.
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "a2", Verb: state.VerbRollback}))
	r.commit(t, "a2")
	r.want(t, wentBack)
	if r.floor(t) != 2 {
		t.Errorf("floor %d", r.floor(t))
	}

	// The publisher withdraws a release by publishing the earlier bytes under a higher
	// sequence. These bytes are installed already.
	r.offerSigned(t, repo, "a3", "v1", 3, release1, nil, nil)
	r.step(t, "swap")
	r.ended(t, "a3", state.ResultAdopted)
	if r.floor(t) != 3 {
		t.Errorf("floor %d", r.floor(t))
	}
	r.offerSigned(t, repo, "a4", "v3", 4, release3, nil, nil)
	r.commit(t, "a4")
	r.offerSigned(t, repo, "a5", "v1", 5, release1, nil, nil)
	r.commit(t, "a5")
	if got := r.installed(t)["bin/agent"].content; got != "agent 1" || r.floor(t) != 5 {
		t.Errorf("installed %q, floor %d", got, r.floor(t))
	}

	// Going back does not replace a damaged floor by a lower one.
	must(t, os.WriteFile(r.at("var/swap/agent/floor.json"), nil, 0o644))
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "a6", Verb: state.VerbRollback}))
	r.commit(t, "a6")
	if floor, err := r.tree.Floor("agent"); err == nil {
		t.Errorf("floor %d", floor)
	}
}

// TestSignedRefused checks that a release changes nothing if no key vouches for it, or
// only for other machines or another time.
func TestSignedRefused(t *testing.T) {
	testkit.Slow(t)
	for _, c := range []struct {
		name   string
		rig    func(t *testing.T, r *rig, repo *trusttest.Repo)
		change func(m *manifest.Manifest)
		alter  func(t *testing.T, r *rig, repo *trusttest.Repo, entry string, m *manifest.Manifest)
		result state.Result
		words  string
	}{
		{name: "no contents", change: func(m *manifest.Manifest) {
			p := m.Platforms[manifest.Host()]
			p.Contents = nil
			m.Platforms[manifest.Host()] = p
		}, words: "it does not say what is in agent.tar.gz"},
		{name: "not in the contents", change: func(m *manifest.Manifest) { delete(m.Platforms[manifest.Host()].Contents, "agent.service") },
			words: "cannot install agent.service: the manifest's contents do not list it"},
		{name: "tree altered", alter: func(t *testing.T, _ *rig, _ *trusttest.Repo, entry string, _ *manifest.Manifest) {
			must(t, os.WriteFile(entry+"/0", []byte("AGENT 2"), 0o640))
		}, words: "cannot install agent: its sha256 is "},
		{name: "receipt altered", alter: func(t *testing.T, _ *rig, _ *trusttest.Repo, entry string, _ *manifest.Manifest) {
			must(t, os.WriteFile(entry+"/receipt.json", []byte(`{"attempt":"a1","files":[{"entry":"agent","name":"2"},{"entry":"agent.service","name":"1"}]}`), 0o640))
		}, words: "cannot install agent: its sha256 is "},
		{name: "no metadata", alter: func(t *testing.T, _ *rig, _ *trusttest.Repo, entry string, _ *manifest.Manifest) {
			must(t, os.Remove(entry+"/metadata.json"))
		},
			words: "cannot read metadata.json: no such file"},
		{name: "a FIFO for the metadata", alter: func(t *testing.T, _ *rig, _ *trusttest.Repo, entry string, _ *manifest.Manifest) {
			replace(t, entry, "metadata.json", fifo)
		}, words: "not a regular file"},
		{name: "huge metadata", alter: func(t *testing.T, _ *rig, _ *trusttest.Repo, entry string, _ *manifest.Manifest) {
			must(t, os.Truncate(entry+"/metadata.json", trust.MaxMetadata+1))
		}, words: "it is larger than 16777216 bytes"},
		{name: "metadata that is no JSON", alter: func(t *testing.T, _ *rig, _ *trusttest.Repo, entry string, _ *manifest.Manifest) {
			must(t, os.WriteFile(entry+"/metadata.json", []byte("x"), 0o640))
		}, words: "the metadata is damaged"},
		{name: "no root", rig: func(t *testing.T, r *rig, _ *trusttest.Repo) { must(t, os.Remove(r.at("trust/agent.root.json"))) },
			words: "(hint: sudo machinemon-update trust agent FILE --sha256 HEX)"},
		{name: "a new pin", rig: func(t *testing.T, r *rig, repo *trusttest.Repo) {
			r.knows(t, repo)
			r.pin(t, trusttest.NewOf(t, "another", time.Now(), &manifest.Manifest{Schema: 1, Version: "v1"}))
		}, words: "timestamp v2: too few valid signatures"},
		{name: "a root that everybody can write", rig: func(t *testing.T, r *rig, _ *trusttest.Repo) { must(t, os.Chmod(r.at("trust"), 0o777)) },
			result: state.ResultMisconfigured, words: "is writable by everyone"},
		{name: "expired", rig: func(_ *testing.T, _ *rig, repo *trusttest.Repo) { repo.Expire(-time.Hour) }, words: "timestamp v2: expired on "},
		{name: "damaged floor", rig: func(t *testing.T, r *rig, _ *trusttest.Repo) {
			must(t, os.WriteFile(r.at("var/swap/agent/floor.json"), nil, 0o644))
		}, result: state.ResultFailed, words: "floor.json: it is damaged (hint: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, repo := signed(t)
			if c.rig != nil {
				c.rig(t, r, repo)
			}
			r.offerSigned(t, repo, "a1", "v2", 7, release2, c.change, func(entry string, m *manifest.Manifest) {
				if c.alter != nil {
					c.alter(t, r, repo, entry, m)
				}
			})
			floor, _ := r.tree.Floor("agent")
			if c.result == "" {
				c.result = state.ResultRefused
			}
			within(t, func() { r.fails(t, "swap", c.result, c.words) })
			r.ended(t, "a1", c.result, c.words)
			if a := r.last(t); a.Expired != (c.name == "expired") || strings.Count(a.Reason, "cannot ") > 1 {
				t.Errorf("recorded %+v", a)
			}
			r.untouched(t)
			if now, _ := r.tree.Floor("agent"); now != floor || r.sys.called("restart agent.service") > 0 {
				t.Errorf("floor %d, was %d", now, floor)
			}
		})
	}
}

// TestSignedRemembersRoots checks that a refused attempt's new root revokes a key.
func TestSignedRemembersRoots(t *testing.T) {
	r, repo := signed(t)
	stolen := repo.Bundle(1)
	r.offerSigned(t, repo, "a1", "v2", 2, release2, nil, func(entry string, _ *manifest.Manifest) {
		repo.Rotate()
		b := repo.Bundle(1)
		b.Timestamp = stolen.Timestamp
		metadata(t, entry, b)
	})
	r.fails(t, "swap", state.ResultRefused, "timestamp v1: too few valid signatures")
	if n := len(r.known(t).Roots); n != 1 {
		t.Errorf("%d roots are known", n)
	}
	// The fetcher brings only the later roots.
	r.offerSigned(t, repo, "a2", "v2", 3, release2, nil, func(entry string, _ *manifest.Manifest) { metadata(t, entry, repo.Bundle(2)) })
	r.commit(t, "a2")

	// After the chain is lost, it begins at the pin again, and all roots are needed.
	must(t, os.Remove(r.at("var/swap/agent/trust.json")))
	r.offerSigned(t, repo, "a3", "v3", 4, release3, nil, nil)
	r.commit(t, "a3")
}

// TestSignedList checks that a release's list and the files in it must be signed, too.
func TestSignedList(t *testing.T) {
	for _, c := range []struct {
		name, drop, words string
	}{
		{"the list", "LIST", "cannot use LIST: it is not the one in the manifest's contents"},
		{"what it lists", "agent-tool", "cannot install agent-tool: the manifest's contents do not list it"},
		{"nothing", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, repo := signed(t)
			r.configure(t, "[trust]\nmode = 'tuf'\nproduct = 'agent'\n[install_manifest]\nfile = 'LIST'\n[[install_manifest.type]]\nname = 'bin'\ndirectory = '"+
				r.at("bin")+"'\nallow = ['agent-*']\n")
			files := map[string]string{"agent": "agent 2", "agent.service": "unit 1", "LIST": "bin:agent-tool\n", "agent-tool": "tool"}
			r.offerSigned(t, repo, "a1", "v2", 2, files, func(m *manifest.Manifest) { delete(m.Platforms[manifest.Host()].Contents, c.drop) }, nil)
			if c.words == "" {
				r.commit(t, "a1")
				return
			}
			r.fails(t, "swap", state.ResultRefused, c.words)
			r.untouched(t)
		})
	}
}
