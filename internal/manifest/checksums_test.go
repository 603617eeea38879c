package manifest

import (
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// asset is the file whose digests the tests look for.
const asset = "app-1.2.0.linux-amd64.tar.gz"

var (
	hex128 = hex64 + hex64
	other  = strings.Repeat("f", 64)
)

// TestChecksums has a row for each form of a checksum file.
func TestChecksums(t *testing.T) {
	s256, s512 := Digests{SHA256: hex64}, Digests{SHA512: hex128}
	var rows []testkit.Row
	for _, c := range []struct {
		form, name, content string
		want                Digests
		err                 string // "": found
	}{
		{"GNU", "sha256sums.txt", hex64 + "  " + asset, s256, ""},
		{"GNU, by version", "app_1.2.0_checksums.txt", hex64 + "  " + asset + "\n", s256, ""},
		{"GNU, binary", "SHA256SUMS", hex64 + " *" + asset, s256, ""},
		{"GNU, ./", "SHA256SUMS", hex64 + "  ./" + asset, s256, ""},
		{"GNU, binary and ./", "SHA256SUMS", hex64 + " *./" + asset, s256, ""},
		{"GNU, .//", "SHA256SUMS", hex64 + "  .//" + asset, s256, ""},
		{"GNU, in a directory", "SHA256SUMS", hex64 + "  dist/" + asset, s256, ""},
		{"GNU, one blank", "SHA256SUMS", hex64 + " " + asset, s256, ""},
		{"GNU, a tab", "SHA256SUMS", hex64 + "\t" + asset, s256, ""},
		{"GNU, sha512", "SHA512SUMS", hex128 + "  " + asset, s512, ""},
		{"GNU, both", "checksums.txt", hex64 + "  " + asset + "\n" + hex128 + "  " + asset, Digests{hex64, hex128}, ""},
		{"BSD", "CHECKSUMS", "SHA256 (" + asset + ") = " + hex64, s256, ""},
		{"BSD, sha512", "CHECKSUMS", "SHA512 (" + asset + ") = " + hex128, s512, ""},
		{"BSD, two algorithms", "CHECKSUMS", "MD5 (" + asset + ") = " + hex64[:32] + "\nSHA256 (" + asset + ") = " + hex64, s256, ""},
		{"BSD, a name with a bracket", "CHECKSUMS", "SHA256 (a (1)) = " + other + "\nSHA256 (" + asset + ") = " + hex64, s256, ""},
		{"OpenSSL 1", "CHECKSUMS", "SHA256(" + asset + ")= " + hex64, s256, ""},
		{"OpenSSL 3", "CHECKSUMS", "SHA2-256(" + asset + ")= " + hex64, s256, ""},
		{"bare", asset + ".sha256", hex64, s256, ""},
		{"bare, newline", asset + ".sha256sum", hex64 + "\n", s256, ""},
		{"bare, sha512", asset + ".sha512", hex128 + "\n", s512, ""},
		{"bare, of the standard input", asset + ".sha256", hex64 + "  -\n", s256, ""},
		{"CRLF", "checksums.txt", other + "  app.zip\r\n" + hex64 + "  " + asset + "\r\n", s256, ""},
		{"comment and empty lines", "checksums.txt", "# made by make\n\n" + hex64 + "  " + asset + "\n\n", s256, ""},
		{"byte order mark", "checksums.txt", "\ufeff" + hex64 + "  " + asset, s256, ""},
		{"upper case", "checksums.txt", strings.ToUpper(hex64) + "  " + asset, s256, ""},
		{"a heading", "checksums.txt", "SHA256 checksums of 1.2.0:\n" + hex64 + "  " + asset, s256, ""},
		{"clear-signed", "SHA256SUMS", "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" + hex64 + "  " + asset + "\n-----BEGIN PGP SIGNATURE-----\n", s256, ""},
		{"the same line twice", "checksums.txt", strings.Repeat(hex64+"  "+asset+"\n", 2), s256, ""},
		{"the same name in a directory", "checksums.txt", other + "  old/" + asset + "\n" + hex64 + "  " + asset, s256, ""},

		{"two digests", "checksums.txt", hex64 + "  " + asset + "\n" + other + "  ./" + asset, Digests{}, "has two different sha256 digests of " + asset + ", " + hex64 + " and " + other},
		{"two directories", "checksums.txt", hex64 + "  a/" + asset + "\n" + other + "  b/" + asset, Digests{}, "has two different sha256 digests of " + asset + ", " + hex64 + " and " + other},
		{"bare, two digests", asset + ".sha256", hex64 + "\n" + other, Digests{}, "has two different sha256 digests of " + asset + ", " + hex64 + " and " + other},
		{"not listed", "checksums.txt", hex64 + "  app.zip\n" + other + "  app.deb\n", Digests{}, "lists 2 files, but not " + asset},
		{"another file", asset + ".sha256", hex64 + "  app.tar.gz", Digests{}, "lists app.tar.gz, but not " + asset},
		{"MD5", "checksums.txt", hex64[:32] + "  " + asset, Digests{}, "has a digest of " + asset + " by md5 only"},
		{"SHA1, BSD", "checksums.txt", "SHA1 (" + asset + ") = " + hex64[:40], Digests{}, "has a digest of " + asset + " by sha1 only"},
		{"SHA384", "checksums.txt", hex128[:96] + "  " + asset, Digests{}, "has a digest of " + asset + " by sha384 only"},
		{"not sha256, though as long", "checksums.txt", "BLAKE2s (" + asset + ") = " + hex64, Digests{}, "has a digest of " + asset + " by blake2s only"},
		{"not sha512, though as long", "checksums.txt", "SHA3-512 (" + asset + ") = " + hex128, Digests{}, "has a digest of " + asset + " by sha3-512 only"},
		{"BSD, too short", "checksums.txt", "SHA256 (" + asset + ") = " + hex64[:40], Digests{}, "has no line of a known form (line 1 is none)"},
		{"cut off", "checksums.txt", hex64[:63] + "  " + asset, Digests{}, "has no line of a known form (line 1 is none)"},
		{"not hex", "checksums.txt", "g" + hex64[1:] + "  " + asset, Digests{}, "has no line of a known form (line 1 is none)"},
		{"a name that sha256sum escapes", "checksums.txt", "\\" + hex64 + "  " + asset, Digests{}, "has no line of a known form (line 1 is none)"},
		{"a control character", "checksums.txt", hex64 + "  \x1b[2J" + asset, Digests{}, "has no line of a known form (line 1 is none)"},
		{"a web page", "checksums.txt", "\n<!DOCTYPE html>", Digests{}, "has no line of a known form (line 2 is none)"},
		{"bare, in a file about several", "checksums.txt", hex64, Digests{}, "has a digest without a file's name"},
		{"empty", "checksums.txt", "", Digests{}, "is empty"},
		{"comments only", "checksums.txt", "# none\n", Digests{}, "is empty"},
	} {
		rows = append(rows, testkit.Row{What: c.form + ", in " + c.name, Refused: c.err})
		got, err := ParseChecksums(c.name, []byte(c.content)).Of(asset)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%s: %+v, %v, want %+v, %q", c.form, got, err, c.want, c.err)
		}
		if twice := strings.Contains(c.err, "two different"); err != nil && IsUnlisted(err) == twice {
			t.Errorf("%s: unlisted is %v", c.form, !twice)
		}
	}
	testkit.Accepted(t, "Lines of checksum files", rows)
}

// FuzzChecksums shows that each line that is accepted has the form that its fields
// promise, and that it is read back as it was from each form that can say it.
func FuzzChecksums(f *testing.F) {
	for _, line := range []string{hex64 + "  " + asset, hex64 + " *./a", "SHA256 (a) = " + hex64, "MD5 (a)= " + hex64[:32], hex128, "# c\r\n\r\n" + hex64 + "\t-", "BLAKE2b (a(b)) = " + hex128} {
		f.Add("a.sha256", []byte(line))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		for _, l := range ParseChecksums(name, data).Lines {
			if size, ok := digestSizes[l.Algorithm]; ok && len(l.Digest) != size {
				t.Fatalf("%+v has another length", l)
			}
			if strings.Trim(l.Digest, "0123456789abcdef") != "" || !printable(l.Algorithm) {
				t.Fatalf("%+v has other characters", l)
			}
			if l.Name == "" || !printable(l.Name) {
				continue // as the checksum file is called, or unnamed
			}
			again := ParseChecksums("", []byte(l.Algorithm+" ("+l.Name+") = "+l.Digest+"\n"))
			if l.Algorithm != "" && !slices.Equal(again.Lines, []Checksum{l}) {
				t.Fatalf("%+v is read back as %+v", l, again)
			}
		}
	})
}
