package fetch

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
)

const machineIDFile = "/etc/machine-id"

// rolloutID is the application's ID with which an ID for rollouts is derived from the
// machine's ID, because others must not learn the machine's ID: see machine-id(5).
var rolloutID = [16]byte{0x8c, 0x41, 0x5d, 0x0e, 0x6a, 0x2b, 0x4f, 0x97, 0xb3, 0x1c, 0x70, 0xe5, 0x2d, 0x98, 0x46, 0xfa}

// machineID returns the machine's ID, or nil if it has none, as in some containers.
func machineID(file string) []byte {
	b, _ := os.ReadFile(file) // without the file it is empty, which is no ID
	id, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(id) != 16 {
		return nil
	}
	return id
}

// place returns the machine's place in the rollout of a version, from 0 to 99. It is the
// same at every check, and differs between versions, so that not always the same machines
// are first. It comes from SHA-256 of an ID in lower-case hex, followed by the version.
// `systemd-id128 machine-id --app-specific=8c415d0e6a2b4f97b31c70e52d9846fa` prints the
// ID. A machine without an ID is last.
func place(id []byte, version string) int {
	if id == nil {
		return 99
	}
	// This is what sd_id128_get_machine_app_specific(3) does.
	mac := hmac.New(sha256.New, id)
	mac.Write(rolloutID[:])
	own := mac.Sum(nil)[:16]
	own[6] = own[6]&0x0f | 0x40
	own[8] = own[8]&0x3f | 0x80
	return manifest.Place(hex.EncodeToString(own), version)
}

// notYet returns [policy.NotYet] for this machine.
func (f *fetcher) notYet(m *manifest.Manifest) string {
	return policy.NotYet(m.Rollout, place(machineID(f.machineID), m.Version))
}
