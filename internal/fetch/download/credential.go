package download

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
)

// maxSecret bounds a secret in bytes.
const maxSecret = 2048

// Credential returns the line that systemd, as root, passed on from a secret file. The
// generator's drop-in names the credential. what is the secret for messages. An error has
// the result Misconfigured, and does not quote the secret.
func Credential(target, what, name string) (string, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", state.Fail(state.ResultMisconfigured, "cannot fetch %s: %s was not handed over "+
			"(hint: root's check has it, after systemctl daemon-reload)", target, what)
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return "", state.Fail(state.ResultMisconfigured, "cannot fetch %s: %s was not handed over: %w "+
			"(hint: sudo systemctl daemon-reload)", target, what, durable.Cause(err))
	}
	defer f.Close()
	b, err := durable.ReadAll(f, maxSecret)
	if err != nil {
		return "", state.Fail(state.ResultMisconfigured, "cannot fetch %s: %s: %w", target, what, durable.Cause(err))
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}
