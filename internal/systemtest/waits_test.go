//go:build systemd

package systemtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// fleetAt is where the machine has a server of FleetLock.
const fleetAt = "127.0.0.1:9095"

// fleetLock is a server of FleetLock with one slot.
type fleetLock struct {
	mu     sync.Mutex
	holder string
	refuse bool // it takes no lock back
}

func (l *fleetLock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var doc struct {
		Client struct{ ID, Group string } `json:"client_params"`
	}
	err := json.NewDecoder(r.Body).Decode(&doc)
	id := doc.Client.ID + "@" + doc.Client.Group
	switch {
	case err != nil || r.Header.Get("fleet-lock-protocol") != "true":
		w.WriteHeader(http.StatusBadRequest)
	case r.URL.Path == "/v1/pre-reboot" && (l.holder == "" || l.holder == id):
		l.holder = id
	case r.URL.Path == "/v1/steady-state" && !l.refuse:
		if l.holder == id {
			l.holder = ""
		}
	default:
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"kind":"failed_lock_semaphore_full","value":"semaphore currently full, all slots are locked already"}`)
	}
}

// set makes the server's slot and behaviour those.
func (l *fleetLock) set(holder string, refuse bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holder, l.refuse = holder, refuse
}

func (l *fleetLock) held() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holder
}

// serveLock serves a FleetLock in the machine.
func (b *box) serveLock(l *fleetLock) {
	b.t.Helper()
	at, err := b.Listen("tcp", fleetAt)
	b.ok(err)
	server := &http.Server{Handler: l}
	go server.Serve(at)
	b.t.Cleanup(func() { server.Close() })
}

// TestWaits: what keeps scheduled runs from installing, on one machine: its operator's
// command, a lock of logind, another target, and the lock of the fleet, which survives a power cut.
func TestWaits(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	schedule := func(text string) {
		c.t.Helper()
		c.writeFile("/etc/machinemon-update/targets.d/testd.toml.d/50-schedule.toml", "auto_update_enabled = true\n"+text, 0o644)
		c.must("systemctl", "daemon-reload")
	}
	scheduled := func() attempt { // as the timer does
		c.t.Helper()
		c.tick()
		c.ok(machine.WaitFor(c.t.Context(), "the scheduled attempt has ended", func() bool {
			last := c.status().Last
			return last.Origin == "schedule" && last.Result != "handed on" && last.Result != "on trial"
		}))
		return c.status().Last
	}
	waits := func(version string, why ...string) {
		c.t.Helper()
		if last := scheduled(); last.Result != "available" || last.Version != version {
			c.t.Errorf("it does not wait: %+v", last)
		}
		says := c.must("machinemon-update", "status", "testd")
		for _, want := range why {
			if !strings.Contains(says, want) {
				c.t.Errorf("status does not say %q:\n%s", want, says)
			}
		}
	}
	installs := func(version string) {
		c.t.Helper()
		if last := scheduled(); last.Result != "committed" || last.Version != version {
			c.t.Errorf("it does not install %s: %+v", version, last)
		}
		c.assertRuns(releases.Daemon{Version: version})
	}
	running := func() {
		c.t.Helper()
		if got := c.run("systemctl", "is-system-running"); got.Stdout != "running\n" {
			c.t.Errorf("the system is %s:\n%s", got.Stdout, c.must("systemctl", "list-units", "--failed"))
		}
	}

	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.step("inhibit", func() {
		c.writeFile("/usr/local/bin/not-now", `#!/bin/sh
if test -e /run/busy; then
	echo "busy: $(id -un), $(systemctl is-active testd.service), $(cat /proc/1/comm), $(touch /usr/local/bin/x /run/x 2>&1 | grep -c 'Read-only\|denied')"
	exit 1
fi
`, 0o755)
		schedule("[schedule]\ninhibit = [\"/usr/local/bin/not-now\"]\n")
		c.writeFile("/run/busy", "", 0o644)
		waits("1.1.0", "it waits, as of 20", ": /usr/local/bin/not-now says no: busy: mm-command-testd, active, systemd, 2 (hint: sudo machinemon-update apply testd does not wait)")
		c.must("rm", "/run/busy")
		c.must("chmod", "0777", "/usr/local/bin/not-now")
		if r := c.run("machinemon-update", "check", "testd"); r.Code != 2 || !strings.Contains(r.Stdout+r.Stderr, "/usr/local/bin/not-now") {
			c.t.Errorf("a command that all may write: %+v", r)
		}
		c.must("chmod", "0755", "/usr/local/bin/not-now")
	})
	c.step("a lock of logind", func() {
		schedule("[schedule]\nshutdown_inhibitors = true\n")
		since := c.cursor()
		c.must("systemd-run", "--unit=backup", "systemd-inhibit", "--what=shutdown", "--mode=block", "--who=backup", "--why=of the day", "sh", "-c", "echo has the lock; exec sleep infinity")
		c.await(since, func(e machine.Entry) bool { return e["MESSAGE"] == "has the lock" })
		waits("1.1.0", "backup (process ", ") keeps the machine from shutting down: of the day")
		c.must("systemctl", "stop", "backup.service")
	})
	c.step("another target", func() {
		// other's update waits in its hook, while its attempt is under way.
		other := strings.NewReplacer("testd.service", "other.service", testdPath, "/usr/local/bin/other", testdAddress, "127.0.0.1:9201").Replace(testdTarget)
		c.writeFile("/usr/local/bin/other", string(build(c.t, releases.Daemon{Version: "1.0.0"})), 0o755)
		c.writeFile("/etc/systemd/system/other.service", "[Service]\nEnvironment=TESTD_ADDRESS=127.0.0.1:9201\nExecStart=/usr/local/bin/other\n", 0o644)
		c.writeFile("/usr/local/bin/wait-for-go", "#!/bin/sh\nsystemd-inhibit --list --no-pager >/run/locks\nuntil test -e /run/go; do sleep 0.1; done\n", 0o755)
		c.writeFile("/etc/machinemon-update/targets.d/other.toml", other+"[hooks]\npre_swap = [\"/usr/local/bin/wait-for-go\"]\n", 0o644)
		schedule("[schedule]\nafter = [\"other\"]\n")
		c.must("systemctl", "start", "other.service", "paths.target")
		apply := c.start("machinemon-update", "apply", "other")
		c.awaitFile("/run/locks")
		waits("1.1.0", "it waits for another target: ", " other ")
		// Meanwhile a shutdown is delayed.
		if locks := c.readFile("/run/locks"); !strings.Contains(locks, "updating other to 1.1.0") || !strings.Contains(locks, "delay") {
			c.t.Errorf("the locks are\n%s", locks)
		}
		c.writeFile("/run/go", "", 0o644)
		if r := c.wait(apply); r.Code != 0 {
			c.t.Errorf("%+v", r)
		}
		if locks := c.must("systemd-inhibit", "--list", "--no-pager"); strings.Contains(locks, "machinemon-update") {
			c.t.Errorf("the locks are\n%s", locks)
		}
		installs("1.1.0")
	})
	l := &fleetLock{}
	c.serveLock(l)
	lock := "[schedule]\nfleetlock_url = \"http://" + fleetAt + "\"\nfleetlock_group = \"web\"\n"
	free := func() {
		c.t.Helper()
		c.ok(machine.WaitFor(c.t.Context(), "the lock is given back", func() bool {
			return l.held() == "" && c.run("test", "-e", "/var/lib/machinemon-update/fetch/testd/fleetlock.json").Code != 0
		}))
	}
	c.step("the lock of the fleet", func() {
		c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
		schedule(lock)
		l.set("another", false)
		waits("1.2.0", "it waits, as of 20", ": http://"+fleetAt+" does not give the lock of group web: status 409, semaphore currently full, all slots are locked already (hint: ")
		running()
		l.set("", false)
		installs("1.2.0")
		free()
		c.publish(c.dir, releases.Daemon{Version: "1.3.0", Behaviour: "exit1-at-once"})
		if last := scheduled(); last.Result != "rolled back" || last.Version != "1.3.0" {
			c.t.Errorf("it is not rolled back: %+v", last)
		}
		free()
		running() // a rollback that went well is no fault of the system
	})
	c.step("the lock of the fleet, and a power cut", func() {
		c.publish(c.dir, releases.Daemon{Version: "1.4.0"})
		l.set("", true)
		installs("1.4.0")
		holds := "it holds the lock of http://" + fleetAt + " (group web) as " + strings.TrimSpace(c.must("systemd-id128", "machine-id", "--app-specific=8c415d0e6a2b4f97b31c70e52d9846fa")) + "-testd"
		c.ok(machine.WaitFor(c.t.Context(), "the lock is not given back", func() bool {
			return strings.Contains(c.must("machinemon-update", "status", "testd"), holds+", and cannot give it back: ")
		}))
		c.ok(machine.WaitFor(c.t.Context(), "it is tried again later", func() bool {
			return c.run("systemctl", "is-active", "machinemon-unlock@testd.timer").Stdout == "active\n"
		}))
		if l.held() == "" {
			c.t.Error("the lock is not held")
		}
		running()
		since := c.cursor()
		c.yank()
		l.set(l.held(), false)
		c.bootAndServe()
		c.serveLock(l)
		// Each boot tries it, here perhaps before the server listens; then a timer would.
		c.awaitEvent(since, "machinemon-unlock@testd.service started")
		c.must("systemctl", "start", "machinemon-unlock@testd.service")
		free()
	})
}
