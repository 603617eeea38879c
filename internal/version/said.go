package version

import (
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// An Output is what a program printed when it was asked for its version.
type Output struct {
	Text    string
	Program string // the program's name, which may look like a version
	// Pattern is a regular expression whose only group matches the version; "" if the
	// first version in Text is the program's. It is valid; see [Pattern].
	Pattern string
}

// maxPattern is the greatest length of a pattern in bytes.
const maxPattern = 200

// Pattern reports whether text can be the pattern of an [Output].
func Pattern(text string) bool {
	p, err := regexp.Compile(text)
	return err == nil && p.NumSubexp() == 1 && len(text) <= maxPattern
}

// Version returns the version that the program says, without a name in front of it and
// without the commit that some programs append: "1.11.3" of CoreDNS-1.11.3. It is "" if
// the output has none.
func (o Output) Version() string {
	if o.Pattern != "" {
		return o.selected()
	}
	words := o.words()
	for _, w := range words {
		if m := sayingForm().FindStringSubmatch(w); m != nil {
			if said := m[1] + m[2] + withoutCommit(m[3]); manifest.ValidName(said) {
				return said
			}
		}
	}
	// Not every publisher counts with dots: build-82, systemd 252.
	i := slices.IndexFunc(words, func(w string) bool {
		return strings.ContainsAny(w, "0123456789") && !second().MatchString(w) && manifest.ValidName(w)
	})
	if i < 0 {
		return ""
	}
	return words[i]
}

// Is reports whether the program says that it is this release. A number of the release
// must be the first one that is printed, because others are often those of a compiler or
// of a revision: "app 1.9.0 (revision: 1.9.1, go1.22.2)" is 1.9.0 only.
func (o Output) Is(release string) bool {
	if o.Pattern != "" {
		said := o.selected()
		return said == release || same(said, release)
	}
	number := numbered().MatchString(release)
	for _, w := range o.words() {
		if !number && manifest.SameVersion(w, release) {
			return true
		}
		if said := sayingForm().FindStringSubmatch(w); said != nil && (number || same(w, release)) {
			return same(w, release)
		}
	}
	return false
}

// Told reports whether the output has a version of the release's kind. If it has none, it
// does not contradict the release.
func (o Output) Told(release string) bool {
	said := o.Version()
	return said != "" && (o.Pattern != "" || !numbered().MatchString(release) || sayingForm().MatchString(said))
}

// Problem returns what is wrong with the output of a program that must be this release,
// as in "it says 1.9.0 instead of 1.9.1 (hint: …)" after the "it"; "" if nothing is.
func (o Output) Problem(release string) string {
	switch {
	case o.Is(release):
		return ""
	case o.Told(release) && o.Pattern != "":
		return "says " + o.Version() + " instead of " + release + " (hint: if that is not its version, correct health.version_pattern)"
	case o.Told(release):
		return "says " + o.Version() + " instead of " + release + " (hint: if that is not its version, health.version_pattern selects another part of the output)"
	case o.Pattern != "":
		return "prints nothing that health.version_pattern takes for a version, and must print " + release + " (hint: correct the pattern, or health.version_command)"
	}
	return "prints no version, and must print " + release + " (hint: correct health.version_command; health.version_pattern selects a part of its output)"
}

// selected returns what the pattern's group matches, if that can be a version.
func (o Output) selected() string {
	p, err := regexp.Compile(o.Pattern)
	if err != nil {
		return ""
	}
	m := p.FindStringSubmatch(o.Text)
	if len(m) != 2 {
		return ""
	}
	if said := strings.TrimSpace(m[1]); manifest.ValidName(said) {
		return said
	}
	return ""
}

var (
	// sayingForm matches a word with a version: a name or nothing, perhaps "v", a dotted
	// number, and a suffix.
	sayingForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(?:|.*?[-_])([vV]?)([0-9]{1,8}(?:\.[0-9]+)+)((?:[-~+]|\.?[A-Za-z]).*)?$`)
	})
	// numbered matches a version that begins with its dotted number.
	numbered = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[vV]?[0-9]+(?:\.[0-9]+)+(?:(?:[-~+]|\.?[A-Za-z]).*)?$`)
	})
	// moment matches a time, with or without the date, and an address with a port.
	moment = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?:[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}[T ])?[-+]?[0-9][0-9.]*(?::[0-9][0-9.]*)+Z?`)
	})
	// second matches a Unix time.
	second = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9]{9,}`) })
	// commit matches the suffix of `git describe` at a tag, or a commit alone.
	commit = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`-(?:0-g)?([0-9a-f]{7,40})(\+.*)?$`) })
	// date matches a day or a time, which marks a build between two releases.
	date = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:19|20)[0-9]{6}(?:[0-9]{4}|[0-9]{6})?$`) })
)

// words returns the words of the output that may be a version. It splits at characters
// that versions cannot have, and removes full stops at the ends of words.
func (o Output) words() (words []string) {
	fields := strings.FieldsFunc(moment().ReplaceAllString(o.Text, " "), func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".+_~-", r))
	})
	for _, f := range fields {
		if f = strings.TrimRight(f, "."); f != "" && f != o.Program {
			words = append(words, f)
		}
	}
	return words
}

// withoutCommit returns a version's suffix without a commit.
func withoutCommit(suffix string) string {
	m := commit().FindStringSubmatchIndex(suffix)
	if m == nil || date().MatchString(suffix[m[2]:m[3]]) {
		return suffix
	}
	if m[4] < 0 {
		return suffix[:m[0]]
	}
	return suffix[:m[0]] + suffix[m[4]:]
}

// same reports whether a program of the release says this. The numbers must be equal. A
// suffix that makes the release another one, such as -rc1, must be equal, too; one that
// does not, such as -stable, may be absent.
func same(said, release string) bool {
	a, b := publishedForm().FindStringSubmatch(said), publishedForm().FindStringSubmatch(release)
	if a == nil || b == nil || withoutZeros(a[1]) != withoutZeros(b[1]) {
		return false
	}
	return sameSuffix(a[2], b[2]) || sameSuffix(withoutCommit(a[2]), b[2])
}

// withoutZeros returns a number without zeros at its end: 27.0 is 27.0.0.
func withoutZeros(number string) string {
	for strings.HasSuffix(number, ".0") {
		number = strings.TrimSuffix(number, ".0")
	}
	return number
}

func sameSuffix(a, b string) bool {
	a, abuild, _ := strings.Cut(a, "+")
	b, bbuild, _ := strings.Cut(b, "+")
	if abuild != bbuild && abuild != "" && bbuild != "" {
		return false
	}
	a, b = strings.ToLower(strings.TrimLeft(a, "-~.")), strings.ToLower(strings.TrimLeft(b, "-~."))
	return a == b || a == "" && slices.Contains(finalWords, b) || b == "" && slices.Contains(finalWords, a)
}
