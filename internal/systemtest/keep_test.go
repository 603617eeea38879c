//go:build systemd

package systemtest

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
)

// kept are the machines that -keep keeps for inspection: those of the failed tests or, if
// none failed, the one that shows the installed packages.
var kept keeping

type keeping struct {
	mu             sync.Mutex
	failed, passed []*machine.Machine
}

// worthALook returns the test whose machine is kept if none failed.
func worthALook() string {
	if *from != "" {
		return "TestUpgradeFromRelease"
	}
	return "TestFreshInstall"
}

// take reports whether the machine of a test that has ended is kept.
func (k *keeping) take(t *testing.T, m *machine.Machine) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case t.Failed():
		k.failed = append(k.failed, m)
	case t.Name() == worthALook():
		k.passed = append(k.passed, m)
	default:
		return false
	}
	return true
}

// stay prints how to enter the kept machines, and closes them when ctx ends. It must
// wait, because they die with this process.
func (k *keeping) stay(ctx context.Context) {
	show := k.failed
	if len(show) == 0 {
		show = k.passed
	}
	for _, m := range show {
		if !m.Booted() {
			logf("%s was off, and boots", m.Name)
			if err := m.Boot(ctx); err != nil {
				logf("%v", err)
				continue
			}
		}
		logf("%s is up: %s", m.Name, m.Entrance())
	}
	if len(show) > 0 {
		logf("end it with Ctrl-C or kill %d", os.Getpid())
		<-ctx.Done()
	} else {
		logf("no machine is kept: no test failed, and %s did not run", worthALook())
	}
	for _, m := range append(k.failed, k.passed...) {
		if err := m.Close(); err != nil {
			logf("%v", err)
		}
	}
}
