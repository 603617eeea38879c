package fetch

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// fleet is a server of FleetLock with one slot for each group.
type fleet struct {
	*httptest.Server
	holder  map[string]string // the ID that has a group's slot
	asked   []string
	refuses int    // the status of each answer; 0: as the protocol has it
	hangs   bool   // the connection is cut after the request was carried out
	says    string // beside refuses
}

func newFleet(t *testing.T) *fleet {
	l := &fleet{holder: map[string]string{}}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var doc struct {
			Client struct{ ID, Group string } `json:"client_params"`
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(body, &doc) != nil || r.Method != http.MethodPost || r.Header.Get("fleet-lock-protocol") != "true" || doc.Client.ID == "" {
			t.Errorf("a request that is not of the protocol: %s %s: %s, %v", r.Method, r.URL, body, err)
		}
		c := doc.Client
		l.asked = append(l.asked, r.URL.Path)
		switch {
		case l.refuses != 0:
			http.Error(w, l.says, l.refuses)
			return
		case r.URL.Path == "/fleet/v1/pre-reboot" && (l.holder[c.Group] == "" || l.holder[c.Group] == c.ID):
			l.holder[c.Group] = c.ID
		case r.URL.Path == "/fleet/v1/steady-state":
			if l.holder[c.Group] == c.ID {
				delete(l.holder, c.Group)
			}
		default:
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"kind":"failed_lock_semaphore_full","value":"all slots\u001b[1m are taken"}`)
			return
		}
		if l.hangs {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(l.Close)
	return l
}

// TestFleetLock takes the lock in scheduled runs that would install, and gives it back.
func TestFleetLock(t *testing.T) {
	const other = "another machine"
	machine := filepath.Join(t.TempDir(), "machine-id")
	testkit.Must(t, os.WriteFile(machine, []byte(theMachine), 0o600))
	me := rollout.ID(machine) + "-agent"
	for _, c := range []struct {
		name   string
		change func(*fleet, *state.Order)
		result state.Result
		reason string
		asked  int
		stays  bool // the record of the lock
		holder string
	}{
		{name: "free", result: state.ResultHandedOn, asked: 1, stays: true, holder: me},
		{name: "held already", change: func(l *fleet, _ *state.Order) { l.holder["web"] = me }, result: state.ResultHandedOn, asked: 1, stays: true, holder: me},
		{name: "taken", change: func(l *fleet, _ *state.Order) { l.holder["web"] = other }, result: state.ResultAvailable, asked: 1, holder: other,
			reason: "it waits: URL does not give the lock of group web: status 409, all slots [1m are taken"},
		{name: "no server of FleetLock", change: func(l *fleet, _ *state.Order) { l.refuses = 404 }, result: state.ResultAvailable, asked: 1,
			reason: "it waits: URL does not give the lock of group web: status 404"},
		{name: "a redirect", change: func(l *fleet, _ *state.Order) { l.refuses = 307 }, result: state.ResultAvailable, asked: 1,
			reason: "it waits: URL does not give the lock of group web: status 307"},
		{name: "a gateway fails", change: func(l *fleet, _ *state.Order) { l.refuses, l.says = 502, strings.Repeat("x", 1<<20) }, result: state.ResultAvailable, asked: 1, stays: true,
			reason: "it waits: URL does not give the lock of group web: status 502"},
		{name: "no server", change: func(l *fleet, _ *state.Order) { l.Close() }, result: state.ResultAvailable,
			reason: "it waits: cannot ask URL for the lock of group web: dial tcp ADDRESS: connect: connection refused"},
		{name: "the answer is lost", change: func(l *fleet, _ *state.Order) { l.hangs = true }, result: state.ResultAvailable, asked: 1, stays: true, holder: me,
			reason: "it waits: cannot ask URL for the lock of group web: EOF"},
		{name: "a person", change: func(l *fleet, o *state.Order) { o.Origin, l.holder["web"] = state.OriginOperator, other }, result: state.ResultHandedOn, holder: other},
		{name: "only a check", change: func(_ *fleet, o *state.Order) { o.Verb = state.VerbCheck }, result: state.ResultAvailable},
		{name: "current", change: func(_ *fleet, o *state.Order) { o.Installed = "v2" }, result: state.ResultCurrent},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newFleet(t)
			url := l.URL + "/fleet/"
			downloads := 0
			s := newSite(t)
			archive := s["/agent.tar.gz"]
			s["/agent.tar.gz"] = func(w http.ResponseWriter, r *http.Request) { downloads++; archive(w, r) }
			b := newBench(t, serve(t, s))
			b.machineID, b.target.FleetLock = theMachine, target.FleetLock{URL: url, Group: "web"}
			o := b.order(state.VerbApply, "v1")
			o.Origin = state.OriginSchedule
			if c.change != nil {
				c.change(l, &o)
			}
			for range 2 { // it does not back off, and downloads nothing twice
				a := b.run(t, o)
				reason := strings.NewReplacer("URL", url, "ADDRESS", strings.TrimPrefix(l.URL, "http://")).Replace(c.reason)
				if a.Result != c.result || a.Reason != reason {
					t.Errorf("%+v, want %s: %s", a, c.result, reason)
				}
				if d := b.status(t).Deferred; (d == nil) != (c.reason == "") || d != nil && "it waits: "+d.Reason != reason {
					t.Errorf("recorded: %+v", d)
				}
				testkit.Must(t, os.RemoveAll(b.tree.Ready(state.RoleFetch, "agent")))
			}
			held, err := b.tree.FleetLock("agent")
			testkit.Must(t, err)
			if len(l.asked) != 2*c.asked || l.holder["web"] != c.holder || (held != nil) != c.stays {
				t.Errorf("asked %q, held by %q, record %+v", l.asked, l.holder["web"], held)
			}
			if c.reason != "" && downloads != 1 {
				t.Errorf("%d downloads", downloads)
			}
			if held == nil {
				return
			}
			if held.ID != me || held.Attempt != attempt || held.Group != "web" || held.URL != url || time.Since(held.Since) > time.Minute {
				t.Errorf("record %+v", held)
			}
			// It is given back once the server answers.
			l.hangs, l.refuses, l.says, l.asked = false, 500, `{"kind":"broken"}`, nil
			for range 2 {
				if err := Unlock(t.Context(), b.tree, "agent"); err == nil || !strings.Contains(err.Error(), "does not take back the lock of group web: status 500, broken") {
					t.Error(err)
				}
			}
			if held, err := b.tree.FleetLock("agent"); err != nil || held == nil || !strings.HasSuffix(held.String(), "status 500, broken") || held.Failing.After(held.Tried) {
				t.Errorf("record %+v, %v", held, err)
			}
			l.refuses = 0
			testkit.Must(t, Unlock(t.Context(), b.tree, "agent"))
			testkit.Must(t, Unlock(t.Context(), b.tree, "agent"))
			steady := "/fleet/v1/steady-state"
			if held, err := b.tree.FleetLock("agent"); err != nil || held != nil || l.holder["web"] != "" || !reflect.DeepEqual(l.asked, []string{steady, steady, steady}) {
				t.Errorf("record %+v, %v, held by %q, asked %q", held, err, l.holder["web"], l.asked)
			}
		})
	}
	t.Run("another server", func(t *testing.T) {
		was, is := newFleet(t), newFleet(t)
		b := newBench(t, serve(t, newSite(t)))
		b.machineID = theMachine
		o := b.order(state.VerbApply, "v1")
		o.Origin = state.OriginDirective
		for _, l := range []*fleet{was, is} {
			b.target.FleetLock = target.FleetLock{URL: l.URL + "/fleet", Group: "web"}
			if a := b.run(t, o); a.Result != state.ResultHandedOn {
				t.Errorf("%+v", a)
			}
			testkit.Must(t, os.RemoveAll(b.tree.Ready(state.RoleFetch, "agent")))
		}
		if was.holder["web"] != "" || is.holder["web"] != me {
			t.Errorf("held by %q and %q", was.holder, is.holder)
		}
	})
	t.Run("no ID", func(t *testing.T) {
		l := newFleet(t)
		b := newBench(t, serve(t, newSite(t)))
		b.target.FleetLock = target.FleetLock{URL: l.URL, Group: "web"}
		o := b.order(state.VerbApply, "v1")
		o.Origin = state.OriginSchedule
		if a := b.run(t, o); a.Result != state.ResultFailed || !strings.Contains(a.Reason, "this machine has no ID (hint: sudo systemd-machine-id-setup)") || len(l.asked) > 0 {
			t.Errorf("%+v, asked %q", a, l.asked)
		}
	})
}
