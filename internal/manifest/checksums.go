package manifest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Checksums are the lines of a checksum file, which publishers put beside their archives.
type Checksums struct {
	Lines []Checksum
	// Strange is the number of the first line that is of no known form, 0 if there is none.
	Strange int
}

// Checksum is the digest of a file.
type Checksum struct {
	// Algorithm is "sha256" or "sha512", or one that does not serve, such as "md5".
	Algorithm string
	Name      string // without the mark of binary files and "./"; "" if not given
	Digest    string // lower-case hex digits
}

// digestSizes are the numbers of hex digits of the digests that are recognised without
// the algorithm's name.
var digestSizes = map[string]int{"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}

// ChecksumEnds are the ends of the name of a checksum file about one archive, behind the
// name of that.
var ChecksumEnds = []string{".sha256", ".sha256sum", ".sha512", ".sha512sum", ".sha1", ".sha1sum", ".md5", ".md5sum"}

// ParseChecksums parses the content of the checksum file with this name. Its lines may be
// those of sha256sum(1) and its relatives, with one or more blanks in the middle
// ("HEX  NAME" and "HEX *NAME"), those of BSD's and OpenSSL's tools
// ("SHA256 (NAME) = HEX"), or a digest alone, if the name of the checksum file is that of
// another file and one of [ChecksumEnds]. Empty lines and
// those that begin with # are skipped, and so are lines of other forms: what they say is
// not needed, or Of will not find it.
func ParseChecksums(name string, data []byte) Checksums {
	alone := ""
	for _, end := range ChecksumEnds {
		if file, ok := strings.CutSuffix(name, end); ok {
			alone = file
		}
	}
	var c Checksums
	n := 0
	for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		sum, ok := tagged(line)
		if !ok {
			sum, ok = untagged(line)
		}
		if sum.Name == "" {
			sum.Name = alone
		}
		switch {
		case ok:
			c.Lines = append(c.Lines, sum)
		case c.Strange == 0:
			c.Strange = n
		}
	}
	return c
}

// tagged parses "SHA256 (NAME) = HEX".
func tagged(line string) (Checksum, bool) {
	tag, rest, ok := strings.Cut(line, "(")
	end := strings.LastIndexByte(rest, ')')
	if !ok || end < 0 {
		return Checksum{}, false
	}
	digest, ok := strings.CutPrefix(strings.TrimSpace(rest[end+1:]), "=")
	if !ok {
		return Checksum{}, false
	}
	// SHA2-256 is OpenSSL's name of SHA256.
	algorithm := strings.ToLower(strings.TrimSpace(tag))
	algorithm = strings.Replace(strings.Replace(algorithm, "sha2-", "sha", 1), "sha-", "sha", 1)
	sum, ok := checksum(algorithm, rest[:end], strings.TrimSpace(digest))
	return sum, ok && sum.Name != ""
}

// untagged parses "HEX  NAME", "HEX *NAME" and "HEX".
func untagged(line string) (Checksum, bool) {
	digest, name := line, ""
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		digest, name = line[:i], strings.TrimLeft(line[i:], " \t")
		name = strings.TrimPrefix(name, "*")
	}
	for algorithm, size := range digestSizes {
		if len(digest) == size {
			return checksum(algorithm, name, digest)
		}
	}
	return Checksum{}, false
}

// checksum returns the parts of a line if they are valid. The name "-" is that of the
// standard input: the digest is the file's whose name the checksum file has.
func checksum(algorithm, name, digest string) (Checksum, bool) {
	for strings.HasPrefix(name, "./") {
		name = strings.TrimLeft(name[2:], "/")
	}
	if name == "-" {
		name = ""
	}
	_, err := hex.DecodeString(digest)
	size, known := digestSizes[algorithm]
	valid := err == nil && digest != "" && (!known || len(digest) == size) &&
		len(algorithm) <= 20 && len(name) <= 1024 && printable(algorithm) && printable(name)
	return Checksum{algorithm, name, strings.ToLower(digest)}, valid
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Digests are those of one file that serve; "" is one that is not known.
type Digests struct{ SHA256, SHA512 string }

// Of returns the digests of a file. A line of exactly this name counts, or, if there is
// none, the lines that have the name in a directory. If no digest serves, the error says
// what the checksum file has instead, to be put behind its name; it is a [*Unlisted]. Two
// different digests of one algorithm are another error.
func (c Checksums) Of(file string) (Digests, error) {
	lines := c.named(func(name string) bool { return name == file })
	if len(lines) == 0 {
		lines = c.named(func(name string) bool { return path.Base(name) == file })
	}
	found := map[string]string{}
	for _, l := range lines {
		if other, twice := found[l.Algorithm]; twice && other != l.Digest {
			return Digests{}, fmt.Errorf("has two different %s digests of %s, %s and %s", l.Algorithm, file, other, l.Digest)
		}
		found[l.Algorithm] = l.Digest
	}
	d := Digests{found["sha256"], found["sha512"]}
	if d == (Digests{}) {
		return d, &Unlisted{c.lacks(file, lines)}
	}
	return d, nil
}

// An Unlisted error says that a checksum file has no digest of a file that serves.
type Unlisted struct{ problem string }

func (u *Unlisted) Error() string { return u.problem }

// IsUnlisted reports whether err says that a checksum file has no digest that serves.
func IsUnlisted(err error) bool {
	_, ok := errors.AsType[*Unlisted](err)
	return ok
}

func (c Checksums) named(fits func(name string) bool) []Checksum {
	return slices.DeleteFunc(slices.Clone(c.Lines), func(l Checksum) bool { return l.Name == "" || !fits(l.Name) })
}

// lacks says why the lines of a file do not serve.
func (c Checksums) lacks(file string, lines []Checksum) string {
	if len(lines) > 0 {
		return "has a digest of " + file + " by " + lines[0].Algorithm + " only"
	}
	var names []string
	for _, l := range c.Lines {
		if l.Name != "" && !slices.Contains(names, l.Name) {
			names = append(names, l.Name)
		}
	}
	switch {
	case len(names) > 1:
		return fmt.Sprintf("lists %d files, but not %s", len(names), file)
	case len(names) == 1:
		return fmt.Sprintf("lists %.100s, but not %s", names[0], file)
	case len(c.Lines) > 0:
		return "has a digest without a file's name"
	case c.Strange > 0:
		return fmt.Sprintf("has no line of a known form (line %d is none)", c.Strange)
	}
	return "is empty"
}
