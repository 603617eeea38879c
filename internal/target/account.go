package target

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/machinemon/machinemon-update/internal/pattern"
)

// Account returns the name of the account under which a step of a target runs: each step
// of each target has its own, so that no target can reach the files, processes or
// credentials of another one. step is "fetch", "verify", "gate",
// "command" or "notify".
//
// A name of systemd-sysusers(8) has at most 31 characters, without dots. A target whose
// name does not fit is represented by a digest. The separator before the digest is
// different, so that no other target has the same account.
func Account(step, name string) string {
	if account := "mm-" + step + "-" + name; accountName.MatchString(account) {
		return account
	}
	sum := sha256.Sum256([]byte(name))
	return "mm-" + step + "_" + hex.EncodeToString(sum[:8])
}

var accountName = pattern.New(`^[a-z0-9_-]{1,31}$`)
