// Package rollout has the rules of staged rollouts: which machines come first, and when a
// release is offered to more of them.
//
// A machine's place in the rollout of a version comes from its ID for rollouts. The machine
// decides by it whether it installs the release, and sends it with each status line, so
// that the check-in gate tells the same machines. The ID is derived from the machine's ID,
// which cannot be computed from it. An agent that sends a wrong one only changes what the
// gate tells that agent: the machine decides by its own.
//
// A plan raises the share of the machines step by step. The publisher writes it beside the
// manifest, and is the only one to change it. The gate reads it, and counts what agents
// report of the release; the publisher's timer asks the gate before each step.
package rollout

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"regexp"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// MachineIDFile has the machine's ID, which others must not learn: see machine-id(5).
const MachineIDFile = "/etc/machine-id"

// application is the ID with which the ID for rollouts is derived from the machine's.
var application = [16]byte{0x8c, 0x41, 0x5d, 0x0e, 0x6a, 0x2b, 0x4f, 0x97, 0xb3, 0x1c, 0x70, 0xe5, 0x2d, 0x98, 0x46, 0xfa}

// ID returns the machine's ID for rollouts, or "" if the file has no ID, as in some
// containers. `systemd-id128 machine-id --app-specific=8c415d0e6a2b4f97b31c70e52d9846fa`
// prints the same: it does what sd_id128_get_machine_app_specific(3) describes.
func ID(machineIDFile string) string {
	b, _ := os.ReadFile(machineIDFile) // without the file it is empty, which is no ID
	id, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(id) != 16 {
		return ""
	}
	mac := hmac.New(sha256.New, id)
	mac.Write(application[:])
	own := mac.Sum(nil)[:16]
	own[6] = own[6]&0x0f | 0x40
	own[8] = own[8]&0x3f | 0x80
	return hex.EncodeToString(own)
}

var validID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// ValidID reports whether s has the form of an ID for rollouts.
func ValidID(s string) bool { return validID.MatchString(s) }

// Place returns the place, 0 to 99, of the machine with this ID in the rollout of a
// version: see [manifest.Place]. A machine without an ID is last.
func Place(id, version string) int {
	if id == "" {
		return 99
	}
	return manifest.Place(id, version)
}
