// Package checkin knows MachineMon's check-in protocol, as far as it speaks of
// updates. It owns nothing on disk.
//
// A server that knows of a release for an agent adds fields to its response, of
// which update_version is one. That is a directive: a trigger and a hint. Nothing
// in it is believed, but that the agent's source may be worth a look.
package checkin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// MaxResponse is the largest check-in response that is looked at, in bytes.
const MaxResponse = 64 << 10

// Announced reads a check-in response and returns the version that it announces;
// "" when it announces none. All other fields are the agent's matter. Of equal
// keys the last counts: a forged version can do no more than a true one.
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
	// A map, since the fields of a struct would match in any case.
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
