package fetch

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

func TestHandedOn(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // as in the unit
	b := newBench(t, serve(t, newSite(t)))
	before := time.Now()
	a := b.run(t, b.order(state.VerbApply, "v1"))
	if a.Result != state.ResultHandedOn || a.Reason != "" || a.ID != attempt || a.Stage != "fetch" ||
		a.Origin != state.OriginOperator || a.From != "v1" || a.Version != "v2" || a.Sequence != 7 {
		t.Errorf("%+v", a)
	}
	if o := b.status(t).Offer; o == nil || o.Version != "v2" || o.Sequence != 7 || !o.Unsigned || o.Checked.Before(before.Add(-time.Second)) {
		t.Errorf("offer %+v", o)
	}
	if got := b.spool(t); !slices.Equal(got, []string{attempt}) {
		t.Fatalf("in the spool: %v", got)
	}
	dir := filepath.Join(b.tree.Ready(state.RoleFetch, "agent"), attempt)
	for name, want := range map[string]string{
		"payload":       string(payload),
		"manifest.json": string(marshal(t, release1())),
		"receipt.json":  `{"attempt":"` + attempt + `","platform":"` + manifest.Host() + `"}`,
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %.80q, %v", name, got, err)
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if n := len(b.reports); n == 0 || b.reports[n-1] != int64(len(payload)) {
		t.Errorf("reports %v", b.reports)
	}
}

func TestDecisions(t *testing.T) {
	disabled := func(m *manifest.Manifest) { m.Disabled = true }
	rejection := state.Rejection{Version: "v2", Sequence: 7, Reason: "it did not answer",
		Time:        time.Date(2026, 10, 31, 23, 59, 0, 0, time.UTC),
		Archive:     manifest.Digest(payload),
		Fingerprint: state.Fingerprint([]state.File{{To: "/usr/local/bin/agent", SHA256: manifest.Digest([]byte("agent"))}})}
	sameBytes, sameArchive, older, once := rejection, rejection, rejection, rejection
	sameBytes.Archive, sameArchive.Fingerprint = "another", "another"
	older.Sequence = 6
	once.Interruptions = 1
	elsewhere := sameBytes
	elsewhere.Fingerprint = state.Fingerprint([]state.File{{To: "/opt/agent", SHA256: manifest.Digest([]byte("agent"))}})

	for _, c := range []struct {
		name      string
		edit      func(m *manifest.Manifest)
		verb      state.Verb
		installed string
		rejected  *state.Rejection
		doubt     string
		result    state.Result
		text      string
		offer     bool
	}{
		{name: "current", verb: state.VerbApply, installed: "v2", result: state.ResultCurrent, offer: true},
		{name: "current without v", verb: state.VerbApply, installed: "2", result: state.ResultCurrent, offer: true},
		{name: "check, current", verb: state.VerbCheck, installed: "v2", result: state.ResultCurrent, offer: true},
		{name: "check, available", verb: state.VerbCheck, installed: "v1", result: state.ResultAvailable, offer: true},
		{name: "check, unknown", verb: state.VerbCheck, result: state.ResultAvailable, offer: true},
		{name: "apply, unknown", verb: state.VerbApply, result: state.ResultHandedOn, offer: true},
		{name: "no number in the version", edit: func(m *manifest.Manifest) { m.Version = "v" }, verb: state.VerbCheck, result: state.ResultAvailable, offer: true},
		{name: "older", verb: state.VerbApply, installed: "v3", result: state.ResultHandedOn, offer: true},
		{name: "disabled", edit: disabled, verb: state.VerbApply, installed: "v1", result: state.ResultNotAttempted, text: "the publisher has disabled updates"},
		{name: "check, disabled", edit: disabled, verb: state.VerbCheck, installed: "v1", result: state.ResultNotAttempted, text: "disabled"},
		{name: "rejected", verb: state.VerbApply, installed: "v1", rejected: &rejection, result: state.ResultNotAttempted, text: "it was rejected on 2026-10-31 23:59 UTC: it did not answer (hint: sudo machinemon-update unskip agent tries it again)", offer: true},
		{name: "check, rejected", verb: state.VerbCheck, installed: "v1", rejected: &rejection, result: state.ResultNotAttempted, text: "rejected", offer: true},
		{name: "same bytes rejected", verb: state.VerbApply, installed: "v1", rejected: &sameBytes, result: state.ResultNotAttempted, text: "rejected", offer: true},
		{name: "same archive rejected", verb: state.VerbApply, installed: "v1", rejected: &sameArchive, result: state.ResultNotAttempted, text: "rejected", offer: true},
		{name: "rejected at an older sequence", verb: state.VerbApply, installed: "v1", rejected: &older, result: state.ResultHandedOn, offer: true},
		{name: "interrupted once", verb: state.VerbApply, installed: "v1", rejected: &once, result: state.ResultHandedOn, offer: true},
		{name: "rejected at another place", verb: state.VerbApply, installed: "v1", rejected: &elsewhere, result: state.ResultHandedOn, offer: true},
		{name: "doubted", verb: state.VerbApply, installed: "v1", doubt: "no probe would prove it", result: state.ResultNotAttempted, text: "no probe would prove it", offer: true},
		{name: "doubted, current", verb: state.VerbApply, installed: "v2", doubt: "no probe would prove it", result: state.ResultCurrent, offer: true},
		{name: "doubted, rejected", verb: state.VerbApply, installed: "v1", rejected: &rejection, doubt: "no probe would prove it", result: state.ResultNotAttempted, text: "it was rejected", offer: true},
		{name: "another product", edit: func(m *manifest.Manifest) { m.Product = "server" }, verb: state.VerbApply, result: state.ResultRefused, text: `it is of product "server", this target takes "agent"`},
		{name: "another platform", edit: func(m *manifest.Manifest) {
			m.Platforms = map[string]manifest.Platform{"linux-mips64le": m.Platforms[manifest.Host()]}
		}, verb: state.VerbApply, result: state.ResultRefused, text: "nothing for " + manifest.Host()},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := release1()
			if c.edit != nil {
				c.edit(m)
			}
			s := newSite(t)
			s["/client-manifest.json"] = bytesHandler(marshal(t, m))
			b := newBench(t, serve(t, s))
			if c.rejected != nil {
				if err := b.tree.SetStatus(state.RoleSwap, "agent", state.Status{Rejected: []state.Rejection{*c.rejected}}); err != nil {
					t.Fatal(err)
				}
			}
			o := b.order(c.verb, c.installed)
			o.Doubt = c.doubt
			a := b.run(t, o)
			if c.result != state.ResultHandedOn {
				b.mustFail(t, a, c.result, c.text)
			} else if a.Result != c.result || len(b.spool(t)) != 1 {
				t.Errorf("%+v", a)
			}
			if (b.status(t).Offer != nil) != c.offer {
				t.Errorf("offer %+v", b.status(t).Offer)
			}
		})
	}
}

// TestLower checks that unattended attempts do not downgrade, and that no attempt leaves
// source.versions. Neither downloads an archive.
func TestLower(t *testing.T) {
	for _, c := range []struct {
		name     string
		origin   state.Origin
		verb     state.Verb
		set      func(t *target.Target)
		recorded int64 // sequence of the installed release
		result   state.Result
		text     string
	}{
		{name: "by schedule", origin: state.OriginSchedule, verb: state.VerbApply, result: state.ResultNotAttempted, text: "v2 is lower than the installed v3, and no schedule goes down (hint: "},
		{name: "by directive", origin: state.OriginDirective, verb: state.VerbApply, result: state.ResultNotAttempted, text: "v2 is lower than the installed v3"},
		{name: "a scheduled check", origin: state.OriginSchedule, verb: state.VerbCheck, result: state.ResultNotAttempted, text: "v2 is lower than the installed v3"},
		{name: "by a person", origin: state.OriginOperator, verb: state.VerbApply, result: state.ResultHandedOn},
		{name: "a person's check", origin: state.OriginOperator, verb: state.VerbCheck, result: state.ResultAvailable, text: "v2 is lower than the installed v3"},
		{name: "withdrawn", origin: state.OriginSchedule, verb: state.VerbApply, recorded: 6, result: state.ResultHandedOn},
		{name: "not withdrawn", origin: state.OriginSchedule, verb: state.VerbApply, recorded: 8, result: state.ResultNotAttempted, text: "v2 is lower"},
		{name: "allowed", origin: state.OriginSchedule, verb: state.VerbApply, set: func(t *target.Target) { t.Source.Downgrade = true }, result: state.ResultHandedOn},
		{name: "out of range", origin: state.OriginOperator, verb: state.VerbApply, set: func(tg *target.Target) { tg.Source.Versions = rangeOf(t, ">=3") },
			result: state.ResultNotAttempted, text: `v2 is not in source.versions ">=3"`},
		{name: "a check, out of range", origin: state.OriginOperator, verb: state.VerbCheck, set: func(tg *target.Target) { tg.Source.Versions = rangeOf(t, ">=3") },
			result: state.ResultNotAttempted, text: `v2 is not in source.versions ">=3"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			archives := 0
			for path, h := range s {
				if path != "/client-manifest.json" {
					s[path] = func(w http.ResponseWriter, r *http.Request) { archives++; h(w, r) }
				}
			}
			b := newBench(t, serve(t, s))
			if c.set != nil {
				c.set(b.target)
			}
			if err := b.tree.SetStatus(state.RoleSwap, "agent", state.Status{Installed: &state.Release{Version: "v3", Sequence: c.recorded}}); err != nil {
				t.Fatal(err)
			}
			o := b.order(c.verb, "v3")
			o.Origin = c.origin
			a := b.run(t, o)
			if a.Result != c.result || !strings.HasPrefix(a.Reason, c.text) || c.text == "" && a.Reason != "" {
				t.Errorf("%+v", a)
			}
			if (archives > 0) != (c.result == state.ResultHandedOn) {
				t.Errorf("%d archives were asked for", archives)
			}
			if b.status(t).Offer == nil {
				t.Error("what the source has is not recorded")
			}
		})
	}
}

// TestRebuilt has other bytes under the installed version, or the same.
func TestRebuilt(t *testing.T) {
	same := []state.File{{To: "/usr/local/bin/agent", SHA256: manifest.Digest([]byte("agent"))}}
	other := []state.File{{To: "/usr/local/bin/agent", SHA256: manifest.Digest([]byte("before"))}}
	sequence := release1().Sequence
	for _, c := range []struct {
		name      string
		installed *state.Release
		edit      func(m *manifest.Manifest)
		result    state.Result
	}{
		{"nothing known", nil, nil, state.ResultCurrent},
		{"the same bytes, higher sequence", &state.Release{Version: "v2", Sequence: sequence - 1, Files: same}, nil, state.ResultCurrent},
		{"other bytes, higher sequence", &state.Release{Version: "v2", Sequence: sequence - 1, Files: other}, nil, state.ResultAvailable},
		{"other bytes, same sequence", &state.Release{Version: "v2", Sequence: sequence, Files: other}, nil, state.ResultCurrent},
		{"the record is of another version", &state.Release{Version: "v1", Sequence: sequence - 1, Files: other}, nil, state.ResultCurrent},
		{"the manifest lists no contents", &state.Release{Version: "v2", Sequence: sequence - 1, Files: other}, func(m *manifest.Manifest) {
			p := m.Platforms[manifest.Host()]
			p.Contents = nil
			m.Platforms[manifest.Host()] = p
		}, state.ResultCurrent},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := release1()
			if c.edit != nil {
				c.edit(m)
			}
			s := newSite(t)
			s["/client-manifest.json"] = bytesHandler(marshal(t, m))
			b := newBench(t, serve(t, s))
			if err := b.tree.SetStatus(state.RoleSwap, "agent", state.Status{Installed: c.installed}); err != nil {
				t.Fatal(err)
			}
			if a := b.run(t, b.order(state.VerbCheck, "v2")); a.Result != c.result {
				t.Errorf("%+v, want %s", a, c.result)
			}
		})
	}
}

// TestBackoff checks that unattended attempts wait after a failure, until an operator's
// attempt succeeds.
func TestBackoff(t *testing.T) {
	s := newSite(t)
	b := newBench(t, serve(t, s))
	b.target.CheckEvery = time.Hour
	scheduled := b.order(state.VerbApply, "v1")
	scheduled.Origin = state.OriginSchedule

	good := s["/client-manifest.json"]
	s["/client-manifest.json"] = status(500)
	b.mustFail(t, b.run(t, scheduled), state.ResultNotDownloaded, "500")
	s["/client-manifest.json"] = good
	scheduled.Attempt += "-2"
	b.mustFail(t, b.run(t, scheduled), state.ResultNotAttempted, "backing off until")
	announced := b.order(state.VerbApply, "v1")
	announced.Origin = state.OriginDirective
	announced.Attempt += "-2b"
	b.mustFail(t, b.run(t, announced), state.ResultNotAttempted, "backing off until")

	asked := b.order(state.VerbCheck, "v1")
	asked.Attempt += "-3"
	if a := b.run(t, asked); a.Result != state.ResultAvailable {
		t.Errorf("a person's check: %+v", a)
	}
	scheduled.Attempt += "-4"
	if a := b.run(t, scheduled); a.Result != state.ResultHandedOn {
		t.Errorf("after a check that went well: %+v", a)
	}
}

func TestOfferStands(t *testing.T) {
	s := newSite(t)
	b := newBench(t, serve(t, s))
	b.run(t, b.order(state.VerbCheck, "v1"))
	s["/client-manifest.json"] = status(500)
	b.run(t, b.order(state.VerbCheck, "v1"))
	if b.status(t).Offer == nil {
		t.Error("a failed check took the offer back")
	}
	m := release1()
	m.Disabled = true
	s["/client-manifest.json"] = bytesHandler(marshal(t, m))
	b.run(t, b.order(state.VerbCheck, "v1"))
	if o := b.status(t).Offer; o != nil {
		t.Errorf("disabled, and still on offer: %+v", o)
	}
}

// TestNextRun checks that a failed run does not block the next one.
func TestNextRun(t *testing.T) {
	s := newSite(t)
	honest := s["/agent.tar.gz"]
	b := newBench(t, serve(t, s))
	for _, bad := range []string{"xx", strings.Repeat("x", len(payload))} {
		s["/agent.tar.gz"] = bytesHandler([]byte(bad))
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), state.ResultRefused, " instead of ")
	}
	s["/agent.tar.gz"] = honest
	if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
		t.Errorf("%+v", a)
	}
}

func TestRun(t *testing.T) {
	b := newBench(t, "")
	dirs := target.Dirs{Root: t.TempDir(), Vendor: "/vendor", Admin: "/admin"}
	run := func() (state.Attempt, int, error) {
		return Run(context.Background(), b.tree, dirs, "agent", func(int64, int64) {})
	}
	order := func(o state.Order) {
		t.Helper()
		if err := b.tree.SetOrder("agent", o); err != nil {
			t.Fatal(err)
		}
	}
	ends := func(want state.Result, wantExit int, reason string) {
		t.Helper()
		a, exit, err := run()
		if err != nil {
			t.Fatal(err)
		}
		b.mustFail(t, a, want, reason)
		if exit != wantExit {
			t.Errorf("exit status %d, want %d: %+v", exit, wantExit, a)
		}
	}
	if _, exit, err := run(); err == nil || exit != 1 {
		t.Errorf("without an order: exit %d, %v", exit, err)
	}
	order(state.Order{Attempt: "../../x", Verb: state.VerbApply})
	if _, exit, err := run(); err == nil || exit != 1 {
		t.Errorf("attempt with a path: exit %d, %v", exit, err)
	}
	order(b.order(state.VerbApply, "v1"))
	killed := filepath.Join(b.tree.Dir(state.RoleFetch, "agent"), ".manifest.json1")
	if err := os.WriteFile(killed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ends(state.ResultMisconfigured, 2, "cannot use target agent")
	if _, err := os.Lstat(killed); !os.IsNotExist(err) {
		t.Errorf("what a killed fetcher left is there still: %v", err)
	}
	if s := b.status(t); len(s.Attempts) != 1 || s.Attempts[0].Result != state.ResultMisconfigured {
		t.Errorf("%+v", s)
	}

	// The network is not up yet. Downloads that failed before do not count.
	if err := os.Remove(filepath.Join(b.tree.Dir(state.RoleFetch, "agent"), "status.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dirs.Root+"/admin", 0o755); err != nil {
		t.Fatal(err)
	}
	from := func(url string) {
		t.Helper()
		if err := os.WriteFile(dirs.Root+"/admin/agent.toml", []byte(`unit = "agent.service"
auto_update_enabled = true
source.url = "`+url+`/client-manifest.json"
install = [{ from = "agent", to = "/usr/local/bin/agent" }]
`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	from("http://127.0.0.1:9")
	for _, o := range []state.Order{
		{Attempt: "a-1", Origin: state.OriginSchedule, Verb: state.VerbApply},
		{Attempt: "a-2", Origin: state.OriginSchedule, Verb: state.VerbApply, Booted: true},
		{Attempt: "a-3", Origin: state.OriginSchedule, Verb: state.VerbCheck, Booted: true},
	} {
		order(o)
		exit := Again
		if !o.Booted {
			exit = 7
		}
		ends(state.ResultNotDownloaded, exit, "connection refused")
	}
	order(state.Order{Attempt: "a-4", Origin: state.OriginSchedule, Verb: state.VerbApply})
	ends(state.ResultNotAttempted, 8, "backing off until")

	// The network is up, and the server says when to try again.
	from(serve(t, site{"/client-manifest.json": status(429)}))
	order(state.Order{Attempt: "a-5", Origin: state.OriginSchedule, Verb: state.VerbApply, Booted: true})
	ends(state.ResultNotDownloaded, 7, "it takes no more requests until")
}

func TestNoSource(t *testing.T) {
	b := newBench(t, "")
	b.target.Source = target.Source{}
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), state.ResultMisconfigured, "no source is configured")
}

// TestLook checks that a look ends as the operator's check does, and stores nothing.
func TestLook(t *testing.T) {
	for _, c := range []struct {
		name      string
		edit      func(m *manifest.Manifest)
		installed string
	}{
		{name: "available", installed: "v1"},
		{name: "unknown"},
		{name: "current", installed: "v2"},
		{name: "disabled", edit: func(m *manifest.Manifest) { m.Disabled = true }, installed: "v1"},
		{name: "another product", edit: func(m *manifest.Manifest) { m.Product = "server" }, installed: "v1"},
		{name: "no version", edit: func(m *manifest.Manifest) { m.Version = "" }, installed: "v1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := release1()
			if c.edit != nil {
				c.edit(m)
			}
			s := newSite(t)
			s["/client-manifest.json"] = bytesHandler(marshal(t, m))
			b := newBench(t, serve(t, s))
			got := Look(t.Context(), b.tree, b.target, c.installed)
			if _, err := os.Stat(filepath.Join(b.tree.Dir(state.RoleFetch, "agent"), "status.json")); !os.IsNotExist(err) {
				t.Errorf("a look left a status: %v", err)
			}
			want := b.run(t, b.order(state.VerbCheck, c.installed))
			got.ID, got.Time = want.ID, want.Time
			if !reflect.DeepEqual(got, want) {
				t.Errorf("a look ended with %+v\na check with %+v", got, want)
			}
		})
	}
	b := newBench(t, serve(t, newSite(t)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a := Look(ctx, b.tree, b.target, ""); a.Result != state.ResultNotDownloaded {
		t.Errorf("called off: %+v", a)
	}
}

// TestFoundByRoot checks that a target file without source uses the one that root found,
// if the present target file allows it.
func TestFoundByRoot(t *testing.T) {
	url := serve(t, newSite(t)) + "/client-manifest.json"
	const from = "/root/client.toml: server_url + /x"
	for _, c := range []struct {
		name   string
		found  *state.Source
		allow  bool
		result state.Result
		text   string
	}{
		{"nothing yet", nil, true, state.ResultNotAttempted, "no source is known yet (hint: sudo machinemon-update check agent finds it)"},
		{"by another url_from", &state.Source{From: "/root/old.toml: server_url + /x", URL: url}, true, state.ResultNotAttempted, "no source is known yet"},
		{"something", &state.Source{From: from, URL: url}, true, state.ResultHandedOn, ""},
		{"no longer allowed", &state.Source{From: from, URL: url}, false, state.ResultMisconfigured, "/root/client.toml: server_url: checksum trust is refused over plain http"},
		{"no certificate checked, no longer allowed", &state.Source{From: from, URL: "https://x/", InsecureSkipTLS: true}, false, state.ResultMisconfigured, "/root/client.toml: insecure_skip_tls: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "")
			b.target.Source.URL, b.target.Source.From = "", &target.URLFrom{File: "/root/client.toml", Key: "server_url", Append: "/x"}
			b.target.Trust.AllowUnauthenticated = c.allow
			if err := b.tree.SetStatus(state.RoleSwap, "agent", state.Status{Source: c.found}); err != nil {
				t.Fatal(err)
			}
			look := Look(t.Context(), b.tree, b.target, "v1")
			a := b.run(t, b.order(state.VerbApply, "v1"))
			if c.result == state.ResultHandedOn {
				if a.Result != c.result || look.Result != state.ResultAvailable {
					t.Errorf("%+v, a look: %+v", a, look)
				}
				return
			}
			b.mustFail(t, a, c.result, c.text)
			if look.Result != a.Result || look.Reason != a.Reason {
				t.Errorf("a look: %+v, want %+v", look, a)
			}
		})
	}
}

// TestCancelled checks that a cancelled attempt is not a success.
func TestCancelled(t *testing.T) {
	s := newSite(t)
	s["/agent.tar.gz"] = raw(fmt.Sprintf("%sContent-Length: %d\r\n\r\nabc", head, len(payload)), true)
	ctx, cancel := context.WithCancel(context.Background())
	b := newBench(t, serve(t, s))
	f := &fetcher{tree: b.tree, name: "agent", order: b.order(state.VerbApply, "v1"), limits: b.limits,
		report: func(int64, int64) { cancel() }}
	a, err := f.run(ctx, b.target)
	if err != nil {
		t.Fatal(err)
	}
	b.mustFail(t, a, state.ResultNotDownloaded, "context canceled")
}
