package systemd

import (
	"os"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.NoLeaks(m.Run())) }
