package gate

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/release"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// machine is an agent with its updater: it checks in, and decides by the rules and the
// trust of the real one.
type machine struct {
	*simulation
	id, lot   string
	installed string
	status    state.Status // the swapper's
	history   []state.Attempt
	metadata  trust.State
	had       map[string]bool // versions that were installed here, if only for a trial
	silent    bool
}

// simulation is a fleet behind a gate, with its own time.
type simulation struct {
	*bench
	keys     release.Keys
	pin      []byte // nil: without signatures
	socket   string
	clock    atomic.Int64 // its time, in seconds since 1970
	checkIns int
	machines []*machine
	bad      map[string]bool // versions that fail on each machine
	silences map[string]bool // versions after which no machine checks in
}

func (s *simulation) now() time.Time { return time.Unix(s.clock.Load(), 0) }

// newSimulation publishes v1, which all machines have.
func newSimulation(t *testing.T, signed bool) *simulation {
	t.Helper()
	s := &simulation{bench: newBench(t, behind), bad: map[string]bool{}, silences: map[string]bool{}, socket: filepath.Join(t.TempDir(), "socket")}
	s.clock.Store(time.Now().Unix())
	s.Gate.now = s.now
	l, err := net.Listen("unix", s.socket)
	testkit.Must(t, err)
	local := &http.Server{Handler: s.Local(), ConnContext: withPeer}
	go local.Serve(l)
	t.Cleanup(func() { local.Close() })
	if signed {
		base := t.TempDir()
		s.keys = release.Keys{Dir: filepath.Join(base, "keys")}
		root := release.Keys{Dir: filepath.Join(base, "usb")}
		add := map[string][]string{}
		for holder, dir := range map[string]string{release.RootKey: root.Dir, release.TargetsKey: s.keys.Dir, release.OnlineKey: s.keys.Dir} {
			for range 2 {
				pub, err := release.Keygen(dir, holder, nil)
				testkit.Must(t, err)
				add[holder] = append(add[holder], pub)
			}
		}
		_, err := release.Init(release.RootRequest{Dir: s.config.DownloadDir, Keys: root, Add: add, Now: s.now()})
		testkit.Must(t, err)
		s.pin, err = os.ReadFile(filepath.Join(s.config.DownloadDir, "1.root.json"))
		testkit.Must(t, err)
	}
	s.release("v1", 100)
	// In the rollout of v3 the machines are at the places 1, 3, 5 and so on.
	lotOf := lotsOf(t)
	for n := 0; len(s.machines) < 50; n++ {
		if lot := lotOf(n); rollout.Place(lot, "v3") == 2*len(s.machines)+1 {
			s.machines = append(s.machines, &machine{simulation: s, id: fmt.Sprintf("c-%d", n), lot: lot, installed: "v1", had: map[string]bool{}})
		}
	}
	return s
}

// release publishes a version for a share of the machines.
func (s *simulation) release(version string, percent int) {
	s.t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	testkit.Must(s.t, w.WriteHeader(&tar.Header{Name: "machinemon-client-linux-amd64", Mode: 0o755, Size: int64(len(version))}))
	w.Write([]byte(version))
	w.Close()
	z.Close()
	in := filepath.Join(s.t.TempDir(), "machinemon-client-linux-amd64.tar.gz")
	testkit.Must(s.t, os.WriteFile(in, b.Bytes(), 0o644))
	_, _, err := release.Publish(release.Request{Dir: s.config.DownloadDir, Version: version, Archives: []string{in}, Keys: s.keys, Rollout: &percent, Now: s.now()})
	testkit.Must(s.t, err)
}

// plan begins a rollout of 1, 10, 50 and 100 percent, each for six hours.
func (s *simulation) plan() {
	s.t.Helper()
	_, err := release.Start(release.StartRequest{Dir: s.config.DownloadDir, Keys: s.keys, Steps: []int{1, 10, 50, 100}, After: 6 * time.Hour, MaxFailures: 10, Now: s.now()})
	testkit.Must(s.t, err)
}

// pass lets time pass: every three hours the machines check in, and the publisher's timer
// runs. It returns the percentages that were reached, and the state at the end.
func (s *simulation) pass(hours int) (reached []int, last *rollout.State) {
	s.t.Helper()
	for range hours / 3 {
		for _, m := range s.machines {
			if !m.silent {
				m.checkIn()
			}
		}
		s.clock.Add(3 * 60 * 60)
		st, moved, err := release.Advance(s.config.DownloadDir, s.keys, func(p *rollout.Plan) (rollout.Counts, error) { return p.Ask(s.socket) }, s.now())
		testkit.Must(s.t, err)
		if moved == rollout.Raise || moved == rollout.Stop {
			reached = append(reached, st.Percent)
		}
		last = st
		if p := rollout.Percent(s.Gate.release()); p != st.Percent {
			s.t.Errorf("the manifest says %d %%, the plan %d %%", p, st.Percent)
		}
	}
	return reached, last
}

// checkIn sends a check-in. Then the machine's updater runs: by the directive in the answer,
// or by its schedule.
func (m *machine) checkIn() {
	m.t.Helper()
	line := checkin.Status{Target: "agent", Installed: m.installed, Lot: m.lot}
	if n := len(m.history); n > 0 {
		a := m.history[n-1]
		line.Result, line.Version, line.Time = string(a.Result), a.Version, &a.Time
	}
	if n := len(m.status.Rejected); n > 0 {
		line.Rejected = m.status.Rejected[n-1].Version
	}
	m.up.answers(`{"client_id":"` + m.id + `","next_checkin_seconds":120}`)
	// The server limits the check-ins of an address by the real time.
	m.checkIns++
	a := m.bench.checkIn(withCheck(m.t, m.id, m.installed, line), fmt.Sprintf("X-Forwarded-For: 2001:db8::%x", m.checkIns))
	if a.status != http.StatusOK {
		m.t.Fatalf("%+v", a)
	}
	told, origin := strings.Contains(a.body, "update_version"), state.OriginSchedule
	if told {
		origin = state.OriginDirective
	}
	attempts := len(m.history)
	if m.update(origin); !told && len(m.history) > attempts {
		m.t.Errorf("machine %s installed what it was not told of: %+v", m.id, m.history[attempts])
	}
}

// update is an unattended attempt.
func (m *machine) update(origin state.Origin) {
	m.t.Helper()
	r := m.seen()
	p := r.Platforms["linux-amd64"]
	offered := &policy.Release{Version: r.Version, Sequence: r.Sequence, Disabled: r.Disabled, Archive: p.SHA256, NotYet: policy.NotYet(r.Rollout, rollout.Place(m.lot, r.Version))}
	d := policy.Decide(policy.Known{Rules: policy.Rules{Target: "agent", AutoUpdate: true, CheckEvery: time.Hour}, Status: m.status, History: m.history, Now: m.now(),
		Order: state.Order{Origin: origin, Verb: state.VerbApply, Installed: m.installed}, Release: offered})
	if d.Refused() {
		return
	}
	m.had[r.Version] = true
	a := state.Attempt{ID: state.AttemptID(fmt.Sprint(m.id, m.now().Unix())), Time: m.now(), Origin: origin, From: m.installed, Version: r.Version, Result: state.ResultCommitted}
	if m.bad[r.Version] {
		a.Result = state.ResultRolledBack
		m.status.Rejected = append(m.status.Rejected, state.Rejection{Version: r.Version, Sequence: r.Sequence, Archive: p.SHA256})
	} else {
		m.installed, m.silent = r.Version, m.silences[r.Version]
	}
	m.history = append(m.history, a)
}

// seen returns the manifest that the machine accepts.
func (m *machine) seen() *manifest.Manifest {
	m.t.Helper()
	get := func(file string, _ int64) ([]byte, error) {
		switch a := m.do("GET", "/download/"+file, ""); a.status {
		case http.StatusOK:
			return []byte(a.body), nil
		case http.StatusNotFound:
			return nil, fs.ErrNotExist
		default:
			return nil, fmt.Errorf("%s: status %d", file, a.status)
		}
	}
	if m.pin == nil {
		raw, err := get(manifest.FileName, 0)
		testkit.Must(m.t, err)
		r, err := manifest.Parse(raw)
		testkit.Must(m.t, err)
		return r
	}
	r, next, err := trust.Client{Pin: m.pin, State: m.metadata, Clock: m.now()}.Collect(get)
	testkit.Must(m.t, err)
	m.metadata = next
	return r.Manifest
}

// have returns the number of machines that had a version.
func (s *simulation) have(version string) (n int) {
	for _, m := range s.machines {
		if m.had[version] {
			n++
		}
	}
	return n
}

// TestPlan lets a fleet of 50 machines go through a rollout by plan: a good release
// reaches all, a bad one stops by itself when at most a tenth of them has had it.
func TestPlan(t *testing.T) {
	for _, signed := range []bool{false, true} {
		t.Run(map[bool]string{false: "checksum", true: "signed"}[signed], func(t *testing.T) {
			testkit.Slow(t)
			t.Parallel()
			s := newSimulation(t, signed)
			s.release("v2", 1)
			s.plan()
			reached, last := s.pass(21)
			if fmt.Sprint(reached) != "[10 50 100]" || s.have("v2") != 50 || last.Done {
				t.Errorf("v2: reached %v, %d machines have it, %+v", reached, s.have("v2"), last)
			}
			_, last = s.pass(3)
			if o := s.known("").Rollout; !last.Done || o == nil || !o.Done || o.Have != 50 || o.Failed+o.Pending != 0 {
				t.Errorf("v2: the plan %+v, the API %+v", last, o)
			}

			s.bad["v3"] = true
			s.release("v3", 1)
			s.plan()
			if o := s.known(""); o.Rollout == nil || o.Rollout.Version != "v3" || o.Rollout.Percent != 1 || o.Rollout.Next != 10 {
				t.Errorf("the API has %+v", o.Rollout)
			}
			reached, last = s.pass(24)
			t.Logf("%d of 50 machines had the bad release; reached %v; %s", s.have("v3"), reached, last.Summary(s.now()))
			if fmt.Sprint(reached) != "[10 0]" || s.have("v3") != 5 || !strings.Contains(last.Stopped, "failed at the step of 10 %, and no more than 10 % of them may") {
				t.Errorf("v3: reached %v, %d machines had it, %+v", reached, s.have("v3"), last)
			}
			for _, m := range s.machines {
				if m.installed != "v2" {
					t.Errorf("machine %s has %s", m.id, m.installed)
				}
			}
			if a := s.do("GET", "/updates", "", "Authorization: admin"); !strings.Contains(a.body, "0 have it, 5 failed, 0 are to install it; stopped: 5 of 5 clients failed at the step of 10 %") {
				t.Errorf("the page does not say that it is stopped: %d %s", a.status, a.body)
			}

			// What made it fail is mended on the machines, so the same bytes go on by another plan.
			s.bad["v3"] = false
			_, _, err := release.Set(release.SetRequest{Dir: s.config.DownloadDir, Keys: s.keys, Retry: true, Now: s.now()})
			testkit.Must(t, err)
			s.plan()
			if reached, last = s.pass(24); fmt.Sprint(reached) != "[10 50 100]" || !last.Done || last.Have != 50 || last.Failed != 0 {
				t.Errorf("v3 again: reached %v, %+v", reached, last)
			}

			// The next release does not inherit the failures.
			s.release("v4", 1)
			s.plan()
			if reached, last = s.pass(24); fmt.Sprint(reached) != "[10 50 100]" || s.have("v4") != 50 {
				t.Errorf("v4: reached %v, %d machines have it, %+v", reached, s.have("v4"), last)
			}

			// Of v5.0 no machine reports anything, since it takes the network away.
			s.silences["v5.0"] = true
			s.release("v5.0", 1)
			s.plan()
			reached, last = s.pass(24)
			t.Logf("%d of 50 machines had the release that silences them; reached %v; %s", s.have("v5.0"), reached, last.Summary(s.now()))
			if len(reached) > 1 || s.have("v5.0") == 0 || last.Percent > 10 || !strings.HasSuffix(last.Waits, "have not reported it yet") {
				t.Errorf("v5.0: reached %v, %d machines had it, %+v", reached, s.have("v5.0"), last)
			}
		})
	}
}
