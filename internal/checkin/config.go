package checkin

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// LoadConfig reads the TOML configuration of a gate or relay into the struct that into
// points to, and returns what check makes of it. A missing key or file means the defaults,
// which the struct has already. Errors name the file, the line and the key.
func LoadConfig[C any](path string, keys []string, into any, check func() (*C, error)) (*C, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	if err := decodeConfig(data, keys, into); err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", path, err)
	}
	c, err := check()
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", path, err)
	}
	return c, nil
}

// decodeConfig reads TOML into the struct that into points to. keys are its allowed keys,
// without tables. Errors name line and key.
func decodeConfig(data []byte, keys []string, into any) error {
	unknown := func(line int, key string) error {
		return fmt.Errorf("line %d: %.100q is not a known key (allowed: %s)", line, key, strings.Join(keys, ", "))
	}
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(into)
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		line, _ := strict.Errors[0].Position()
		return unknown(line, strings.Join(strict.Errors[0].Key(), "."))
	}
	if wrong, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, _ := wrong.Position()
		return fmt.Errorf("line %d: %s", line, strings.TrimPrefix(wrong.Error(), "toml: "))
	}
	if err != nil {
		return err
	}
	// go-toml ignores case: it would accept Upstream for upstream.
	var written map[string]any
	if err := toml.Unmarshal(data, &written); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(written)) {
		if !slices.Contains(keys, key) {
			return unknown(1+bytes.Count(data[:max(0, bytes.Index(data, []byte(key)))], []byte("\n")), key)
		}
	}
	return nil
}
