package machine

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// debsInside is the machine's directory of the package files while apt reads them.
const debsInside = "/srv/debs"

// installScript installs packages as an operator does after copying them to the machine.
const installScript = `
export DEBIAN_FRONTEND=noninteractive
apt-get install --yes --quiet --no-install-recommends ./*.deb
`

// upgradeScript upgrades as an operator does from a repository, which has our packages
// only. It fails if a package is held back: the tests would run with the released one.
const upgradeScript = `
for deb in *.deb; do
	dpkg-deb --field "$deb"
	printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d' ' -f1)"
done >Packages
echo "deb [trusted=yes] file:$PWD ./" >sources.list
mkdir -p lists/partial
# The machine's own sources stay, and are out of reach.
printf 'Dir::Etc::SourceList "%s/sources.list"; Dir::Etc::SourceParts "/dev/null"; Dir::State::Lists "%s/lists";\n' "$PWD" "$PWD" >apt.conf
export APT_CONFIG=$PWD/apt.conf DEBIAN_FRONTEND=noninteractive

apt-get update --quiet
# An operator who has changed a conffile wants to keep it.
apt-get upgrade --with-new-pkgs --yes --quiet --option=Dpkg::Options::=--force-confold
new=
for deb in *.deb; do
	name=$(dpkg-deb --field "$deb" Package)
	dpkg-query --status "$name" >/dev/null 2>&1 || new="$new $name"
done
if [ -n "$new" ]; then
	apt-get install --yes --quiet --no-install-recommends $new
fi
for deb in *.deb; do
	want="$(dpkg-deb --field "$deb" Version) installed"
	got=$(dpkg-query --show --showformat='${Version} ${db:Status-Status}' "$(dpkg-deb --field "$deb" Package)")
	[ "$got" = "$want" ] || { echo "$deb: apt leaves it at $got" >&2; exit 1; }
done
`

// Install installs package files by apt.
func (m *Machine) Install(ctx context.Context, debs ...string) error {
	return m.apt(ctx, installScript, debs)
}

// Upgrade upgrades to package files by apt, as from a repository, and then installs the
// new packages among them.
func (m *Machine) Upgrade(ctx context.Context, debs ...string) error {
	return m.apt(ctx, upgradeScript, debs)
}

// apt runs a script in the directory of the package files.
func (m *Machine) apt(ctx context.Context, script string, debs []string) error {
	for _, deb := range debs {
		content, err := os.ReadFile(deb)
		if err == nil {
			err = m.WriteFile(path.Join(debsInside, filepath.Base(deb)), content, 0o644)
		}
		if err != nil {
			return err
		}
	}
	r, err := m.Run(ctx, "sh", "-ec", "cd "+debsInside+script)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("apt-get failed:\n%s%s", r.Stdout, r.Stderr)
	}
	if err != nil {
		return err
	}
	return m.Root().RemoveAll(rel(debsInside))
}
