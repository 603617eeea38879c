package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// ErrDamaged means that a file does not have the content that this package writes.
var ErrDamaged = errors.New("it is damaged")

// readIfThere reads a file of this package, and returns nil if it does not exist.
func readIfThere[T any](path string) (*T, error) {
	v := new(T)
	err := readJSON(path, v)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

func readJSON(path string, v any) error { return readLarge(path, maxFile, v) }

func readLarge(path string, most int64, v any) error {
	data, err := durable.ReadFile(path, most)
	if errors.Is(err, durable.ErrTooLarge) {
		err = ErrDamaged
	}
	if errors.Is(err, durable.ErrSymlink) || errors.Is(err, durable.ErrNotRegular) {
		err = fmt.Errorf("%w: %w", ErrDamaged, durable.Cause(err))
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", path, durable.Cause(err))
	}
	format, err := formatOf(data)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", path, ErrDamaged)
	}
	if format > Format {
		return fmt.Errorf("cannot read %s: its format %d is newer than this program's %d "+
			"(hint: install the version of machinemon-update that wrote it, or a newer one)", path, format, Format)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, ErrDamaged)
	}
	return nil
}

// formatOf returns the format number of a file. This package writes it first, so the rest need
// not be parsed twice.
func formatOf(data []byte) (int, error) {
	var head struct{ Format int }
	d := json.NewDecoder(bytes.NewReader(data))
	open, _ := d.Token()
	if key, _ := d.Token(); open == json.Delim('{') && key == "format" && d.Decode(&head.Format) == nil {
		return head.Format, nil
	}
	return head.Format, json.Unmarshal(data, &head)
}

// writeJSON writes a file that all users may read.
func writeJSON(path string, v any) error { return writeJSONAs(path, v, 0o644) }

func writeJSONAs(path string, v any, mode fs.FileMode) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return durable.WriteFile(path, append(data, '\n'), mode)
}
