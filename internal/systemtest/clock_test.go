//go:build systemd

package systemtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// A machine shares its clock with the host, which tests must not set. So these tests
// install the same programs, linked with a standard library whose time.Now adds the
// seconds in a file. Its monotonic part is unchanged, as on a machine whose clock is set.
// systemd and the journal keep the host's clock.
const (
	clockFile  = "/run/clock-shift"
	clockShift = `package time

func Now() Time {
	t := hostNow()
	t.addSec(shift())
	return t
}

func shift() (seconds int64) {
	fd, err := open("` + clockFile + `")
	if err != nil {
		return 0
	}
	defer closefd(fd)
	var b [24]byte
	n, _ := read(fd, b[:])
	sign := int64(1)
	for _, c := range b[:max(n, 0)] {
		if c == '-' {
			sign = -1
		} else {
			seconds = 10*seconds + int64(c-'0')
		}
	}
	return sign * seconds
}
`
)

// shifted returns the programs with a clock that can be set, by their names.
var shifted = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "shifted-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, err
	}
	std := filepath.Join(strings.TrimSpace(string(root)), "src/time")
	replace := map[string]string{}
	overlay := func(name string, content []byte) error {
		replace[filepath.Join(std, name)] = filepath.Join(dir, name)
		return os.WriteFile(filepath.Join(dir, name), content, 0o644)
	}
	if err := overlay("shift.go", []byte(clockShift)); err != nil {
		return nil, err
	}
	// The call in sleep.go only wakes goroutines, and runs where no file can be opened.
	for name, call := range map[string]string{"time.go": "func Now() Time {", "sleep.go": "Now().Add("} {
		source, err := os.ReadFile(filepath.Join(std, name))
		if err == nil && bytes.Count(source, []byte(call)) != 1 {
			err = fmt.Errorf("%s of this Go has %q not once", name, call)
		}
		if err == nil {
			err = overlay(name, bytes.Replace(source, []byte(call), []byte(strings.Replace(call, "Now", "hostNow", 1)), 1))
		}
		if err != nil {
			return nil, err
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o644)
	}
	if err != nil {
		return nil, err
	}
	programs := map[string][]byte{"machinemon-update": nil, "fetcher": nil, "verifier": nil, "swapper": nil, "health-gate": nil}
	argv := []string{"build", "-trimpath", "-overlay=" + filepath.Join(dir, "overlay.json"), "-ldflags=-s -w", "-o", dir + "/"}
	for name := range programs {
		argv = append(argv, "github.com/machinemon/machinemon-update/cmd/"+name)
	}
	cmd := exec.Command("go", argv...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build programs with a clock to set: %w\n%s", err, out)
	}
	for name := range programs {
		if programs[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return programs, nil
})

// newClockChain is newHeldChain on a machine whose clock can be set.
func newClockChain(t *testing.T, target string) *chain {
	t.Helper()
	programs, err := shifted()
	if err != nil {
		t.Fatal(err)
	}
	c := newHeldChain(t, target)
	for name, program := range programs {
		dir := "/usr/lib/machinemon-update/"
		if name == "machinemon-update" {
			dir = "/usr/bin/"
		}
		c.writeFile(dir+name, string(program), 0o755)
	}
	return c
}

// setClock sets the clock to this year; 0 sets it to the host's time.
func (c *chain) setClock(year int) {
	c.t.Helper()
	shift := int64(0)
	if year != 0 {
		shift = time.Date(year, 1, 2, 0, 0, 0, 0, time.UTC).Unix() - time.Now().Unix()
	}
	c.writeFile(clockFile, fmt.Sprint(shift), 0o644)
}

// TestClockIsWrong shows that a machine with a dead clock battery updates, rolls back and
// remembers as usual, and that its records do no harm once the clock is right again.
func TestClockIsWrong(t *testing.T) {
	once(t)
	t.Parallel()
	for _, year := range []int{1970, 2100} {
		t.Run(fmt.Sprint(year), func(t *testing.T) {
			t.Parallel()
			c := newClockChain(t, testdTarget)
			c.must("machinemon-update", "enable", "testd")
			c.must("systemctl", "stop", "machinemon-fetch@testd.timer") // only the runs below may start
			c.setClock(year)
			c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
			c.apply(0, "committed 1.1.0 (was 1.0.0) in ")
			c.assertRuns(releases.Daemon{Version: "1.1.0"})
			if last := c.status().Last; !strings.HasPrefix(last.ID, fmt.Sprint(year)) {
				t.Fatalf("the clock is right: %+v", last)
			}
			c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
			c.apply(4, "rolled back 1.2.0")
			c.assertRejected("1.2.0")
			c.must("systemctl", "reset-failed", "testd.service")
			c.publish(c.dir, releases.Daemon{Version: "1.3.0"})
			altered := c.archive("1.3.0")
			c.server.Break(altered, releases.Content([]byte("garbage")))
			c.run("systemctl", "start", "machinemon-fetch@testd.service")
			c.assertTold("refused", "")
			c.tick()
			c.assertTold("not attempted", fmt.Sprintf("backing off until %d-", year))

			// Now the network sets the time.
			c.setClock(0)
			c.server.Mend(altered)
			c.installs("1.3.0")
			if h := c.history(); h[0].Version != "1.3.0" || h[0].Result != "committed" || c.status().Last != h[0] {
				t.Errorf("the last attempt is not the last: %+v", h)
			}
			c.assertClosed("1.1.0")
		})
	}
}

// TestClockStepsInTheTrial shows that setting the clock during an attempt changes neither
// its length nor its verdict.
func TestClockStepsInTheTrial(t *testing.T) {
	once(t)
	t.Parallel()
	for _, year := range []int{1970, 2100} {
		t.Run(fmt.Sprint(year), func(t *testing.T) {
			t.Parallel()
			c := newClockChain(t, strings.NewReplacer("settle_seconds = 1", "settle_seconds = 4", "timeout_seconds = 10", "timeout_seconds = 4").Replace(testdTarget))
			c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
			c.hold(atRestart)
			since := c.cursor()
			apply := c.startApply()
			c.awaitHeld(since, atRestart)
			c.setClock(year)
			c.letGo(atRestart)
			c.awaitTrial()
			began := time.Now()
			c.setClock(2000)
			c.said(c.wait(apply), 0, "committed 1.1.0 (was 1.0.0)")
			if took := time.Since(began); took < 3*time.Second { // the test may notice the trial a little late
				t.Errorf("it settled for %s, not 4 s", took)
			}
			c.assertRuns(releases.Daemon{Version: "1.1.0"})

			// The next trial fails.
			c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "never-listen"})
			since = c.cursor()
			apply = c.startApply()
			c.awaitEvent(since, inChain("swap started")[0])
			c.setClock(year)
			c.said(c.wait(apply), 4, "rolled back 1.2.0: ", "did not pass within 4 s", "(1.1.0 runs again)")
			c.assertRuns(releases.Daemon{Version: "1.1.0"})
			c.assertClosed("1.0.0")
			if h := c.history(); len(h) != 2 || h[0].Version != "1.2.0" {
				t.Errorf("history has %+v", h)
			}
		})
	}
}
