package trust

import (
	"fmt"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/version"
)

// Terms is what a machine requires of a signed manifest beyond its signature.
type Terms struct {
	Product   string // of the target; its publisher may sign other products, too
	Platform  string // of this machine
	Floor     int64  // the highest sequence committed here; 0 if none
	Installed string // the version here; "" if unknown
}

// Check returns an error if the manifest is not for this machine. It accepts a sequence
// equal to the floor, because that release may have to be repaired.
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
	case version.Lower(t.Installed, m.MinVersion):
		return fmt.Errorf("it needs at least %s first, and %s is installed", m.MinVersion, t.Installed)
	}
	return nil
}
