package fetch

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// TestSee: an operator's check of a release whose manifest does not show which files are
// left out hands its archive to the verifier, once, and no later attempt downloads it again.
func TestSee(t *testing.T) {
	for name, etag := range map[string]string{"an ETag": `"1"`, "no ETag": ""} {
		t.Run(name, func(t *testing.T) {
			archive := &shaky{answers: []http.HandlerFunc{offered(payload, etag)}}
			s := newSite(t)
			s["/agent.tar.gz"] = archive.ServeHTTP
			s["/client-manifest.json"] = bytesHandler(marshal(t, edit(release1(), func(p *manifest.Platform) { p.Contents = nil })))
			b := newBench(t, serve(t, s))
			b.target.Listing = &target.Listing{File: "LIST", Types: []target.ListedType{{Name: "bin", Allow: []string{"*"}, Exclude: []string{"*-update"}}}}
			ends := func(order state.Order, result state.Result, downloads string) {
				t.Helper()
				if a := b.run(t, order); a.Result != result || a.Warning != "" {
					t.Errorf("%+v, want %s", a, result)
				}
				if archive.asked() != downloads {
					t.Errorf("the archive was asked for: %s, want %s", archive.asked(), downloads)
				}
				if got, err := os.ReadFile(filepath.Join(b.tree.Ready(state.RoleFetch, "agent"), attempt, state.PayloadName)); result == state.ResultHandedOn && (err != nil || string(got) != string(payload)) {
					t.Errorf("handed on are %d bytes, %v", len(got), err)
				}
				if _, consumed, err := b.tree.Claim(state.RoleFetch, "agent"); err != nil {
					t.Error(err)
				} else if consumed != nil {
					if err := consumed.Consume(); err != nil {
						t.Error(err)
					}
				}
			}
			check := b.order(state.VerbCheck, "v1")
			scheduled := check
			scheduled.Origin = state.OriginSchedule

			ends(scheduled, state.ResultAvailable, "")
			ends(check, state.ResultHandedOn, "A")
			ends(check, state.ResultHandedOn, "A") // the verifier has said nothing
			seen := state.Status{Inside: &state.Inside{Of: b.status(t).Offer.Inside}}
			if err := b.tree.SetStatus(state.RoleVerify, "agent", seen); err != nil {
				t.Fatal(err)
			}
			ends(check, state.ResultAvailable, "A")
			b.target.Listing.Types[0].Exclude = []string{"x"}
			ends(check, state.ResultHandedOn, "A")
			b.target.Listing.Types[0].Exclude = nil
			ends(check, state.ResultAvailable, "A")
			dry := b.order(state.VerbApply, "v1")
			dry.DryRun = true
			ends(dry, state.ResultHandedOn, "A")
			ends(b.order(state.VerbApply, "v1"), state.ResultHandedOn, "A")
			ends(b.order(state.VerbApply, "v1"), state.ResultHandedOn, "AA")
		})
	}
}

// TestSeeNothing: a check whose archive cannot be downloaded has found the release, and
// warns. Where the manifest shows what is left out, nothing is downloaded.
func TestSeeNothing(t *testing.T) {
	s := newSite(t)
	s["/agent.tar.gz"] = status(http.StatusNotFound)
	b := newBench(t, serve(t, s))
	b.target.Listing = &target.Listing{File: "LIST", Types: []target.ListedType{{Name: "bin", Allow: []string{"*"}, Exclude: []string{"*-update"}}}}
	if a := b.run(t, b.order(state.VerbCheck, "v1")); a.Result != state.ResultAvailable || a.Warning != "" {
		t.Errorf("%+v", a)
	}
	s["/client-manifest.json"] = bytesHandler(marshal(t, edit(release1(), func(p *manifest.Platform) { p.Contents = nil })))
	a := b.run(t, b.order(state.VerbCheck, "v1"))
	if a.Result != state.ResultAvailable || !strings.HasPrefix(a.Warning, "whether a script that the target leaves out has changed is not known: cannot download ") {
		t.Errorf("%+v", a)
	}
	if got := b.spool(t); len(got) > 0 {
		t.Errorf("in the spool: %q", got)
	}
}
