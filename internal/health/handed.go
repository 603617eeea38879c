package health

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/machinemon/machinemon-update/internal/pattern"
	"github.com/machinemon/machinemon-update/internal/target"
)

// The files of probes may be readable by root alone. systemd reads them and hands them to
// the gate as credentials, which other users cannot read. Their content is in no argument,
// in no variable, and in no error.

// handed returns the content of a file that a key of the probe names.
func handed(key, file string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), target.Credential(file)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, mistaken{fmt.Errorf("%s %s was not handed over (hint: sudo systemctl daemon-reload)", key, file)}
	case err != nil:
		return nil, notAsked{fmt.Errorf("cannot read %s %s: %w", key, file, plain(err))}
	case string(data) == target.NoFile:
		return nil, mistaken{fmt.Errorf("%s %s does not exist (hint: make it, or leave %s out)", key, file, key)}
	}
	return data, nil
}

const mostHeaders = 100

// headerName matches a token of RFC 9110.
var headerName = pattern.New("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$")

// headers returns the headers in a file: a line NAME: VALUE for each.
func headers(file string) (http.Header, error) {
	if file == "" {
		return http.Header{}, nil
	}
	data, err := handed("headers_file", file)
	if err != nil {
		return nil, err
	}
	all, n := http.Header{}, 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.Trim(line, " \t\r\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimLeft(value, " \t")
		if !headerName.MatchString(name) || value == "" || strings.ContainsFunc(value, unicode.IsControl) {
			return nil, mistaken{fmt.Errorf("headers_file %s: line %d is not a header (hint: NAME: VALUE)", file, n)}
		}
		all.Add(name, encoded(value))
		if len(all) > mostHeaders {
			return nil, mistaken{fmt.Errorf("headers_file %s has too many headers (hint: at most %d)", file, mostHeaders)}
		}
	}
	if len(all) == 0 {
		return nil, mistaken{fmt.Errorf("headers_file %s has no header (hint: NAME: VALUE)", file)}
	}
	return all, nil
}

// encoded returns the value of a header. "Basic USER:PASSWORD" is encoded; what is encoded
// already has no colon.
func encoded(value string) string {
	pair, basic := strings.CutPrefix(value, "Basic ")
	if !basic || !strings.Contains(pair, ":") {
		return value
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(strings.TrimSpace(pair)))
}
