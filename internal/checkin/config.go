package checkin

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// DecodeConfig reads the TOML configuration of a gate or relay into the struct that
// into points to. keys are its allowed keys, without tables. Errors name line and key.
func DecodeConfig(data []byte, keys []string, into any) error {
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
