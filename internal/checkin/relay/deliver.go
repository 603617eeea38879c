package relay

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/machinemon/machinemon-update/internal/state"
)

// Announced is the exit status with which the relay says that an update is announced. So
// it needs no directory that it may write: root drops the directive, and a relay that was
// taken over can cause no more than one empty file.
const Announced = 10

// Deliver runs as root after the relay has ended, and drops a directive to its target if
// the relay has said that an update is announced. getenv returns what systemd says about
// the end of the relay (systemd.exec(5)).
func Deliver(configFile string, tree state.Tree, getenv func(string) string) error {
	if getenv("EXIT_CODE") != "exited" || getenv("EXIT_STATUS") != strconv.Itoa(Announced) {
		return nil
	}
	c, err := Load(configFile)
	if err != nil {
		return err
	}
	dir := filepath.Join(tree.Run, "directive")
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("cannot drop a directive to %s: %w (hint: is machinemon-update installed?)", c.Target, err)
	}
	syscall.Umask(0o022) // the unit's is for the relay
	_, err = tree.DropDirective(c.Target)
	return err
}
