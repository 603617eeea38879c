package target

import (
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/machinemon/machinemon-update/internal/calendar"
	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/pattern"
	"github.com/machinemon/machinemon-update/internal/version"
)

// A kind is the TOML type of a key.
type kind int

const (
	kindText    kind = iota // string
	kindInteger             // int64
	kindBoolean             // bool
	kindTexts               // []string
	kindStatus              // int64 or string
	kindTable
	kindTables
)

// values are what a key may hold. An error has the same words for a wrong type and a
// wrong value: `must be` must (allowed: allowed).
type values struct {
	kind    kind
	must    string
	allowed string
	valid   func(any) bool // whether a value of that kind is allowed; for a list of tables, the value is their number, an int
	// rootOnly says that only root may be able to write the file, or the program if the
	// value is a command, because root reads or runs it.
	rootOnly bool
}

func (v values) problem() string {
	return "must be " + v.must + " (allowed: " + v.allowed + ")"
}

func textOf(must, allowed string, valid func(string) bool) values {
	return values{kind: kindText, must: must, allowed: allowed, valid: func(v any) bool { return valid(v.(string)) }}
}

func oneOf(must string, words ...string) values {
	return textOf(must, `"`+strings.Join(words, `", "`)+`"`, func(s string) bool { return slices.Contains(words, s) })
}

func integerOf(must string, low, high int64, note string) values {
	return values{kind: kindInteger, must: must, allowed: fmt.Sprintf("%d to %d%s", low, high, note),
		valid: func(v any) bool { return v.(int64) >= low && v.(int64) <= high }}
}

func seconds(low, high int64) values { return integerOf("a whole number of seconds", low, high, "") }

func listOf(must, allowed string, valid func([]string) bool) values {
	return values{kind: kindTexts, must: must, allowed: allowed, valid: func(v any) bool { return valid(v.([]string)) }}
}

func tableOf(allowed string) values {
	return values{kind: kindTable, must: "a table", allowed: allowed}
}

func tablesOf(allowed string, low, high int) values {
	if low > 0 {
		allowed += ", at least one"
	}
	return values{kind: kindTables, must: "a list of tables", allowed: fmt.Sprintf("%s, at most %d", allowed, high),
		valid: func(v any) bool { return v.(int) >= low && v.(int) <= high }}
}

// rootOnly returns v with the condition that only root can write the file or program.
func rootOnly(v values) values {
	v.rootOnly = true
	return v
}

const (
	unquotedAllowed = `"/DIR/NAME" of A-Z a-z 0-9 . _ @ + -`

	pathAllowed = `"/DIR/NAME", without . and .. elements, double slashes and control characters`
	urlAllowed  = `"https://HOST/PATH" or "http://HOST/PATH", without user, password and fragment`
	filledIn    = "{os} {arch} {machine} {version} {number} are filled in"
	wordAllowed = "1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit"
)

var (
	yesOrNo      = values{kind: kindBoolean, must: "a boolean", allowed: "true, false", valid: func(any) bool { return true }}
	besideSocket = values{kind: kindBoolean, must: "a boolean", allowed: "true, false; only beside http, grpc, tcp or unix", valid: func(any) bool { return true }}
	besideTLS    = values{kind: kindBoolean, must: "a boolean", allowed: "true, false; only beside a URL that begins with https", valid: func(any) bool { return true }}
	// An HTTP status, or all that begin with one digit.
	expectedStatus = values{kind: kindStatus, must: "an HTTP status or a class of them", allowed: `100 to 599, or "1xx" to "5xx"; only beside http`, valid: func(v any) bool {
		text, isText := v.(string)
		n, isNumber := v.(int64)
		return isText && statusClass.MatchString(text) || isNumber && n >= 100 && n <= 599
	}}
	absolutePath = textOf("an absolute path", pathAllowed, cleanPath)
	// For the root directory, the error of forbidden is clearer.
	anyDirectory = textOf("an absolute path", pathAllowed, func(s string) bool { return s == "/" || cleanPath(s) })
	archiveEntry = textOf("a file's name in the archive", `a relative path without . and .. elements; `+filledIn, func(s string) bool { return entryName(s) && !isGlob(s) })
	archiveGlob  = textOf("a file's name in the archive, or a glob that matches one", `a relative path with * ? [ ], without . and .. elements, or "." for an asset that is the program; with / at its end, a directory, "./" for all of the archive; `+filledIn, func(s string) bool {
		return s == "." || s == "./" || entryGlob(strings.TrimSuffix(s, "/"))
	})
	archName  = textOf("the publisher's name of an architecture", "1 to 32 of A-Z a-z 0-9 . _ -, the first a letter or digit", matching(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`))
	octalMode = textOf("an octal mode in quotes, without write permission for group and others", `"0400" to "0755"`, func(s string) bool {
		n, err := strconv.ParseUint(s, 8, 32)
		return err == nil && threeDigits.MatchString(s) && n&0o022 == 0 && n&0o400 != 0
	})
)

// nameGlobs are at least least globs of [path.Match] for names of files.
func nameGlobs(least int) values {
	glob := func(g string) bool {
		_, err := path.Match(g, "")
		return err == nil && g != "" && len(g) <= 100 && !strings.ContainsAny(g, `/\`) && !hasControl(g)
	}
	return listOf("a list of names or globs", `at most 64 plain names with * ? [ ]`, func(globs []string) bool {
		return len(globs) >= least && len(globs) <= 64 && each(glob)(globs)
	})
}

// commandLine is a command of at least least strings that root or a health check runs.
func commandLine(least int) values {
	plain := func(arg string) bool { return !strings.ContainsRune(arg, 0) }
	return rootOnly(listOf("a command as a list of strings", `["/DIR/PROGRAM", "ARGUMENT", …], without NUL characters`, func(argv []string) bool {
		return len(argv) >= least && (len(argv) == 0 || cleanPath(argv[0])) && each(plain)(argv)
	}))
}

// releaseCommand is a program of the release, by its name in the archive, with arguments.
var releaseCommand = listOf("a command as a list of strings", `["NAME", "ARGUMENT", …], NAME as in install.from but no glob, without NUL characters`, func(argv []string) bool {
	plain := func(arg string) bool { return !strings.ContainsRune(arg, 0) }
	return len(argv) == 0 || entryName(argv[0]) && !isGlob(argv[0]) && each(plain)(argv)
})

func each(valid func(string) bool) func([]string) bool {
	return func(list []string) bool {
		return !slices.ContainsFunc(list, func(s string) bool { return !valid(s) })
	}
}

func matching(expression string) func(string) bool { return pattern.New(expression).MatchString }

var (
	// unitName follows systemd.unit(5). A template has an empty instance.
	unitName = pattern.New(`^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.service$`)

	word        = pattern.New(`^[A-Za-z0-9][A-Za-z0-9.+_~-]{0,63}$`)
	threeDigits = pattern.New(`^0?[0-7]{3}$`)
	placeholder = pattern.New(`\{(os|arch|machine|version|number)\}`)
	urlPath     = pattern.New(`^[A-Za-z0-9._~/-]+$`)
	ownerName   = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)+$`)
	statusClass = pattern.New(`^[1-5]xx$`)
	serviceText = pattern.New(`^/?[A-Za-z0-9._]*$`)
	plainPath   = pattern.New(`^[A-Za-z0-9/._@+-]+$`)
)

func anyText(string) bool { return true }

func shortLine(s string) bool {
	n := utf8.RuneCountInString(s)
	return n >= 1 && n <= 200 && !hasControl(s)
}

// onOneLine reports whether a line of a journal can contain text.
func onOneLine(text string) bool {
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	return shortLine(text) && utf8.ValidString(text) && !strings.ContainsFunc(text, unprintable)
}

func bodyPart(s string) bool { return s != "" && len(s) <= 1024 }

func rootName(s string) bool { return s == "root" || s == "0" }

func serviceName(s string) bool { return unitName.MatchString(s) && len(s) <= 255 } // UNIT_NAME_MAX of systemd

func versionRange(s string) bool {
	r, err := version.ParseRange(s)
	return err == nil && !hasControl(r.String())
}

func window(s string) bool {
	_, err := calendar.Parse(s)
	return err == nil
}

func versionPattern(s string) bool {
	return version.Pattern(s) && utf8.ValidString(s) && !hasControl(s)
}

// entryName reports whether a file in a release can have this name.
func entryName(from string) bool {
	plain := placeholder.ReplaceAllString(from, "x")
	return fs.ValidPath(plain) && plain != "." && len(from) <= 255 &&
		!strings.ContainsAny(plain, `{}\`) && !hasControl(plain) && from[0] != '-'
}

// keepNames reports whether an install can keep these names below its directory.
func keepNames(names []string) bool {
	for n, name := range names {
		others := slices.Delete(slices.Clone(names), n, n+1)
		if !fs.ValidPath(name) || name == "." || len(name) > 255 || hasControl(name) || dirtree.Keeps(others, name) {
			return false
		}
	}
	return len(names) <= 32
}

func entryGlob(s string) bool {
	_, err := path.Match(s, "")
	return err == nil && entryName(s)
}

func assetGlob(s string) bool { return entryGlob(s) && !strings.Contains(s, "/") }

func repositoryName(s string) bool {
	return ownerName.MatchString(s) && path.Clean(s) == s && len(s) <= 255
}

// cleanPath reports whether path is absolute, names a file other than /, and is clean, so
// that equal paths are equal strings.
func cleanPath(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && path != "/" && len(path) < 4096 && !hasControl(path)
}

// unquotedPath reports whether path can be written in a unit file without quotes.
func unquotedPath(path string) bool { return cleanPath(path) && plainPath.MatchString(path) }

func appendable(path string) bool { return cleanPath(path) && urlPath.MatchString(path) }

func socketPath(path string) bool { return cleanPath(path) && len(path) <= 107 } // sun_path of unix(7)

// hasControl reports whether s contains a character that would break a line of output.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' })
}

// webURL reports whether s can be fetched, and has no secret that must not be shown.
func webURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || hasControl(s) || len(s) > 2048 {
		return false
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return false
	}
	return u.Hostname() != "" && u.User == nil && !strings.Contains(s, "#") && (u.Port() == "" && !strings.HasSuffix(u.Host, ":") || port(u.Port()))
}

// grpcURL reports whether s names a server of gRPC, and perhaps one of its services.
func grpcURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && apiURL(s) && serviceText.MatchString(u.EscapedPath())
}

func apiURL(s string) bool { return webURL(s) && !strings.Contains(s, "?") }

func proxyURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && webURL(s) && u.Port() != "" && u.Scheme+"://"+u.Host == s
}

// hostPort reports whether s is an address to connect to.
func hostPort(s string) bool {
	host, p, err := net.SplitHostPort(s)
	return err == nil && host != "" && !hasControl(host) && !strings.ContainsAny(host, "/ @") && port(p)
}

func port(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}
