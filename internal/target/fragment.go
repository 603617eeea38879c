package target

import (
	"errors"
	"maps"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/machinemon/machinemon-update/internal/pattern"
)

// A setting is the value of a key and the place where it was written.
type setting struct {
	value any // of the type that the key's kind says; nil for a table and for a list of tables
	file  string
	line  int
	order int // of the file; a higher order overrides a lower one
}

// settings are keys of one file, or of all merged, by paths such as "install[1].to".
type settings map[string]setting

// parse returns the keys of one file, without file and order. It refuses unknown keys and
// values of the wrong type. validation judges the values, once all files are merged.
func parse(data []byte) (settings, *ConfigError) {
	found, wrong, syntaxErr := read(data)
	if wrong != nil {
		return nil, wrong
	}
	// The decoder also refuses duplicate keys and numbers out of range.
	var decoded map[string]any
	err := toml.Unmarshal(data, &decoded)
	if err == nil {
		err = syntaxErr
	}
	if err == nil {
		return found, nil
	}
	problem := &ConfigError{Problem: "is not valid TOML: " + withoutContent(err.Error())}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		problem.Line, _ = de.Position()
		if lines := strings.Split(string(data), "\n"); problem.Line > 0 && problem.Line <= len(lines) && bare.MatchString(lines[problem.Line-1]) {
			problem.Problem, problem.Hint = "is not valid TOML: a text has no quotes", `as in unit = "NAME.service"`
		}
	}
	return nil, problem
}

// bare matches a line whose value is a text without quotes, such as unit = NAME.service.
var bare = pattern.New(`^\s*[A-Za-z0-9_.-]+\s*=\s*[A-Za-z/*][^"'\[\]{}=,]*$`)

// character matches the part of go-toml's messages that quotes a character of the file.
var character = pattern.New(` (but got )?U\+[0-9A-F]+( '[^']*')?`)

func withoutContent(message string) string {
	message = strings.TrimPrefix(message, "toml: ")
	return strings.TrimRight(character.ReplaceAllString(message, ""), ": ")
}

// merge overrides keys of s by those of high. It replaces a list of tables as a whole.
func (s settings) merge(high settings, file string, order int) {
	for path := range high {
		if keyByName[path].kind == kindTables {
			maps.DeleteFunc(s, func(p string, _ setting) bool { return strings.HasPrefix(p, path+"[") })
		}
	}
	for path, at := range high {
		at.file, at.order = file, order
		s[path] = at
	}
}
