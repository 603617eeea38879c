// Package checkin implements the part of MachineMon's check-in protocol that is about
// updates. It owns nothing on disk.
//
// A server that knows a release for an agent adds update_version and other fields to
// its response. These are a directive, which only makes the machine ask the agent's
// own source for a release. Nothing else in it is trusted.
package checkin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// MaxResponse is the size in bytes of the largest check-in response that is parsed.
const MaxResponse = 64 << 10

// Announced reads a check-in response and returns its update_version, or "" if it has
// none. It ignores all other fields, which are for the agent. If the key occurs twice,
// the last one counts: a forged version can only start a check, as a true one does.
func Announced(response io.Reader) (version string, err error) {
	data, err := io.ReadAll(io.LimitReader(response, MaxResponse+1))
	if err != nil {
		return "", fmt.Errorf("cannot read the check-in response: %w", err)
	}
	if version, err = announced(data); err != nil {
		return "", fmt.Errorf("cannot use the check-in response: %w", err)
	}
	return version, nil
}

func announced(data []byte) (string, error) {
	switch {
	case len(data) > MaxResponse:
		return "", fmt.Errorf("it is larger than %d KiB", MaxResponse>>10)
	case !utf8.Valid(data):
		return "", errors.New("it is not valid UTF-8")
	}
	// A map, because encoding/json ignores the case of a struct's keys.
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil || fields == nil {
		return "", errors.New("it is not a JSON object")
	}
	raw, there := fields["update_version"]
	if !there {
		return "", nil
	}
	var version *string
	if json.Unmarshal(raw, &version) != nil {
		return "", errors.New("update_version: must be a string")
	}
	if version == nil || *version == "" {
		return "", nil
	}
	if !manifest.ValidName(*version) {
		return "", errors.New("update_version: must be 1 to 64 of A-Z a-z 0-9 . + _ ~ - and start with a letter or digit")
	}
	return *version, nil
}
