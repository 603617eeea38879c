package release

import (
	"errors"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// archiveName holds the parts of an archive's file name.
type archiveName struct {
	product   string // machinemon-client
	platform  string // linux-amd64
	extension string // .tar.gz; "" for a program that is not compressed
}

var (
	// The platforms are those of manifest.Host, with any separator.
	platformName = regexp.MustCompile(`^(.*?)[-_.]?(linux|darwin)[-_.](386|amd64|arm64|armv5|armv6|armv7|loong64|mips64le|ppc64le|riscv64|s390x)` +
		`(\.tar|\.tar\.gz|\.tgz|\.tar\.zst|\.tzst|\.tar\.xz|\.txz|\.tar\.bz2|\.tbz2?|\.zip|\.gz|\.zst|\.xz|\.bz2)?$`)
	versionPart = regexp.MustCompile(`[-_.]v?[0-9].*$`)
)

// parseName parses names such as machinemon-client-linux-amd64.tar.gz and
// node_exporter-1.9.1.linux-amd64.tar.gz.
func parseName(path, version string) (archiveName, error) {
	m := platformName.FindStringSubmatch(filepath.Base(path))
	if m == nil {
		return archiveName{}, errors.New("its name does not end in a platform and a format, such as -linux-amd64.tar.gz, _linux_armv7.zip or, for a program alone, -linux-amd64")
	}
	// The given version may have any form (build-17); others are recognized by digits.
	product := m[1]
	for _, v := range []string{version, strings.TrimPrefix(version, "v")} {
		for _, separator := range []string{"-", "_", "."} {
			product = strings.TrimSuffix(product, separator+v)
		}
	}
	product = versionPart.ReplaceAllString(product, "")
	if !manifest.ValidName(product) {
		return archiveName{}, errors.New("its name does not begin with a product's name")
	}
	return archiveName{product, m[2] + "-" + m[3], m[4]}, nil
}
