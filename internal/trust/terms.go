package trust

import (
	"fmt"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// Terms is what a machine asks of a signed manifest beyond its signature.
type Terms struct {
	Product   string // of the target: one publisher's server must not pass as its agent
	Platform  string // of this machine
	Floor     int64  // the highest sequence committed here; 0: none yet
	Installed string // the version here; "": not known
}

// Check returns why the manifest is not for this machine. The sequence of the
// floor itself is: that release may have to be repaired.
func (t Terms) Check(m *manifest.Manifest) error {
	p, err := m.Platform(t.Platform)
	switch {
	case m.Product != t.Product:
		return fmt.Errorf("it is of product %q, this target takes %q", m.Product, t.Product)
	case m.Sequence < 1:
		return fmt.Errorf("it has no sequence")
	case m.Sequence < t.Floor:
		return fmt.Errorf("its sequence %d is older than %d, which was committed here", m.Sequence, t.Floor)
	case err != nil:
		return err
	case len(p.Contents) == 0:
		return fmt.Errorf("it does not say what is in %s", p.File)
	case older(t.Installed, m.MinVersion):
		return fmt.Errorf("it needs at least %s first, and %s is installed", m.MinVersion, t.Installed)
	}
	return nil
}

// older tells whether a is before b. Versions that are not semantic have no order.
func older(a, b string) bool {
	a, b = "v"+strings.TrimPrefix(a, "v"), "v"+strings.TrimPrefix(b, "v")
	return semver.IsValid(a) && semver.IsValid(b) && semver.Compare(a, b) < 0
}
