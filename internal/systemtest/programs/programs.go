// Package programs describes releases of the programs that packaging/examples/targets has
// target files for, as their publishers lay them out: the names of the files of a
// release, the names in its archive, and what the program prints as its version. The
// contents are the tests'.
package programs

// Program is a release of a program that many people run.
type Program struct {
	Target string // the example's name, without .toml
	Tag    string // of the release
	// Files are the files of the release that an example could take by mistake.
	Files []string
	// Archives are the right files, by the platform of the machine.
	Archives map[string]string
	// Sums is the content of the checksum file SumsName on the publisher's own server, where its
	// archives are, with DIGEST for the digest; "" if the archives are files of the release.
	Sums, SumsName string
	// Signed says that the checksum file is signed.
	Signed bool
	// Entries are names in the archive for linux-amd64. The first ones are the files that
	// the example installs, in its order. It is empty if the release is the program.
	Entries []string
	// Printed is what the version_command of this release prints.
	Printed string
}

// All are the programs, in the order of their names. The facts are those of releases of
// 2024.
var All = []Program{
	{
		Target: "adguardhome", Tag: "v0.107.52",
		Files: []string{"AdGuardHome_darwin_amd64.zip", "AdGuardHome_frontend.tar.gz", "checksums.txt", "version.txt"},
		Archives: map[string]string{"linux-amd64": "AdGuardHome_linux_amd64.tar.gz", "linux-arm64": "AdGuardHome_linux_arm64.tar.gz",
			"linux-armv7": "AdGuardHome_linux_armv7.tar.gz"},
		Entries: []string{"./AdGuardHome/AdGuardHome", "./AdGuardHome/AdGuardHome.sig", "./AdGuardHome/CHANGELOG.md", "./AdGuardHome/LICENSE.txt", "./AdGuardHome/README.md"},
		Printed: "AdGuard Home, version v0.107.52\n",
	},
	{
		Target: "caddy", Tag: "v2.8.4",
		Files: []string{"caddy_2.8.4_linux_amd64.deb", "caddy_2.8.4_linux_amd64.tar.gz.pem", "caddy_2.8.4_linux_amd64.tar.gz.sig", "caddy_2.8.4_linux_amd64.sbom",
			"caddy_2.8.4_buildable-artifact.tar.gz", "caddy_2.8.4_src.tar.gz", "caddy_2.8.4_linux_armv6.tar.gz", "caddy_2.8.4_checksums.txt"},
		Archives: map[string]string{"linux-amd64": "caddy_2.8.4_linux_amd64.tar.gz", "linux-arm64": "caddy_2.8.4_linux_arm64.tar.gz",
			"linux-armv7": "caddy_2.8.4_linux_armv7.tar.gz"},
		Entries: []string{"caddy", "LICENSE", "README.md"},
		Printed: "v2.8.4 h1:q3pe0wpBj1OcHFZ3n/1nl4V4bxBrYoSoab7rL9BMYNk=\n",
	},
	{
		Target: "coredns", Tag: "v1.11.3",
		Files: []string{"coredns_1.11.3_linux_amd64.tgz.sha256", "coredns_1.11.3_darwin_amd64.tgz", "coredns_1.11.3_linux_mips.tgz"},
		Archives: map[string]string{"linux-amd64": "coredns_1.11.3_linux_amd64.tgz", "linux-arm64": "coredns_1.11.3_linux_arm64.tgz",
			"linux-armv7": "coredns_1.11.3_linux_arm.tgz"},
		Entries: []string{"coredns"},
		Printed: "CoreDNS-1.11.3\nlinux/amd64, go1.21.11, a7ed346\n",
	},
	{
		Target: "gitea", Tag: "v1.22.1",
		Files: []string{"gitea-1.22.1-linux-amd64", "gitea-1.22.1-linux-amd64.sha256", "gitea-1.22.1-linux-amd64.asc", "gitea-1.22.1-linux-amd64.xz.sha256",
			"gitea-1.22.1-linux-amd64.xz.asc", "gitea-1.22.1-linux-arm-5.xz", "gitea-src-1.22.1.tar.gz", "gitea-docs-1.22.1.tar.gz"},
		Archives: map[string]string{"linux-amd64": "gitea-1.22.1-linux-amd64.xz", "linux-arm64": "gitea-1.22.1-linux-arm64.xz",
			"linux-armv7": "gitea-1.22.1-linux-arm-6.xz"},
		Printed: "Gitea version 1.22.1 built with GNU Make 4.3, go1.22.5 : bindata, sqlite, sqlite_unlock_notify\n",
	},
	{
		Target: "gitlab-runner", Tag: "v17.5.3",
		Archives: map[string]string{"linux-amd64": "gitlab-runner-linux-amd64", "linux-arm64": "gitlab-runner-linux-arm64",
			"linux-armv7": "gitlab-runner-linux-arm"},
		Sums: "DIGEST *binaries/ARCHIVE\n", SumsName: "release.sha256",
		Printed: "Version:      17.5.3\nGit revision: 12030cf4\nGit branch:   17-5-stable\nGO version:   go1.22.7\n",
	},
	{
		Target: "grafana", Tag: "v11.1.4",
		Archives: map[string]string{"linux-amd64": "grafana-11.1.4.linux-amd64.tar.gz", "linux-arm64": "grafana-11.1.4.linux-arm64.tar.gz",
			"linux-armv7": "grafana-11.1.4.linux-armv7.tar.gz"},
		Sums: "DIGEST", SumsName: "ARCHIVE.sha256",
		Entries: []string{"grafana-v11.1.4/bin/grafana", "grafana-v11.1.4/bin/grafana-server", "grafana-v11.1.4/conf/defaults.ini",
			"grafana-v11.1.4/public/views/index.html", "grafana-v11.1.4/VERSION", "grafana-v11.1.4/LICENSE"},
		Printed: "grafana version 11.1.4\n",
	},
	{
		Target: "nats-server", Tag: "v2.10.18",
		Files: []string{"nats-server-v2.10.18-amd64.deb", "nats-server-v2.10.18-linux-amd64.zip", "nats-server-v2.10.18-linux-arm6.tar.gz", "SHA256SUMS"},
		Archives: map[string]string{"linux-amd64": "nats-server-v2.10.18-linux-amd64.tar.gz", "linux-arm64": "nats-server-v2.10.18-linux-arm64.tar.gz",
			"linux-armv7": "nats-server-v2.10.18-linux-arm7.tar.gz"},
		Entries: []string{"nats-server-v2.10.18-linux-amd64/nats-server", "nats-server-v2.10.18-linux-amd64/LICENSE", "nats-server-v2.10.18-linux-amd64/README.md"},
		Printed: "nats-server: v2.10.18\n",
	},
	{
		Target: "node_exporter", Tag: "v1.8.2",
		Files: []string{"node_exporter-1.8.2.darwin-amd64.tar.gz", "node_exporter-1.8.2.linux-armv6.tar.gz", "sha256sums.txt"},
		Archives: map[string]string{"linux-amd64": "node_exporter-1.8.2.linux-amd64.tar.gz", "linux-arm64": "node_exporter-1.8.2.linux-arm64.tar.gz",
			"linux-armv7": "node_exporter-1.8.2.linux-armv7.tar.gz"},
		Entries: []string{"node_exporter-1.8.2.linux-amd64/node_exporter", "node_exporter-1.8.2.linux-amd64/LICENSE", "node_exporter-1.8.2.linux-amd64/NOTICE"},
		Printed: "node_exporter, version 1.8.2 (branch: HEAD, revision: f1e0e8360aa60b6cb5e5cc1560bed348fc2c1895)\n  build user:       root@03d440803209\n" +
			"  build date:       20240714-11:53:45\n  go version:       go1.22.5\n  platform:         linux/amd64\n",
	},
	{
		Target: "prometheus", Tag: "v3.0.1",
		Files: []string{"prometheus-3.0.1.linux-armv6.tar.gz", "prometheus-web-ui-3.0.1.tar.gz", "sha256sums.txt"},
		Archives: map[string]string{"linux-amd64": "prometheus-3.0.1.linux-amd64.tar.gz", "linux-arm64": "prometheus-3.0.1.linux-arm64.tar.gz",
			"linux-armv7": "prometheus-3.0.1.linux-armv7.tar.gz"},
		Entries: []string{"prometheus-3.0.1.linux-amd64/prometheus", "prometheus-3.0.1.linux-amd64/promtool", "prometheus-3.0.1.linux-amd64/prometheus.yml",
			"prometheus-3.0.1.linux-amd64/LICENSE", "prometheus-3.0.1.linux-amd64/NOTICE"},
		Printed: "prometheus, version 3.0.1 (branch: HEAD, revision: 1f56e8492c31a558ccea833027db4bd7f8b6d0e9)\n  build user:       root@97f0a9f2a0dc\n",
	},
	{
		Target: "syncthing", Tag: "v1.27.9",
		Files: []string{"syncthing-source-v1.27.9.tar.gz", "syncthing-macos-amd64-v1.27.9.zip", "sha256sum.txt.asc", "sha1sum.txt.asc"},
		Archives: map[string]string{"linux-amd64": "syncthing-linux-amd64-v1.27.9.tar.gz", "linux-arm64": "syncthing-linux-arm64-v1.27.9.tar.gz",
			"linux-armv7": "syncthing-linux-arm-v1.27.9.tar.gz"},
		Entries: []string{"syncthing-linux-amd64-v1.27.9/syncthing", "syncthing-linux-amd64-v1.27.9/README.txt",
			"syncthing-linux-amd64-v1.27.9/etc/linux-systemd/system/syncthing@.service"},
		Printed: "syncthing v1.27.9 \"Gold Grasshopper\" (go1.22.4 linux-amd64) teamcity@build.syncthing.net 2024-06-13 07:01:20 UTC\n",
	},
	{
		Target: "traefik", Tag: "v3.1.2",
		Files: []string{"traefik_v3.1.2_checksums.txt", "traefik-v3.1.2.src.tar.gz", "traefik_v3.1.2_linux_armv6.tar.gz"},
		Archives: map[string]string{"linux-amd64": "traefik_v3.1.2_linux_amd64.tar.gz", "linux-arm64": "traefik_v3.1.2_linux_arm64.tar.gz",
			"linux-armv7": "traefik_v3.1.2_linux_armv7.tar.gz"},
		Entries: []string{"traefik", "CHANGELOG.md", "LICENSE.md"},
		Printed: "Version:      3.1.2\nCodename:     comte\nGo version:   go1.22.5\nBuilt:        2024-08-06T13:50:28Z\nOS/Arch:      linux/amd64\n",
	},
	{
		Target: "vault", Tag: "v1.17.3",
		Archives: map[string]string{"linux-amd64": "vault_1.17.3_linux_amd64.zip", "linux-arm64": "vault_1.17.3_linux_arm64.zip",
			"linux-armv7": "vault_1.17.3_linux_arm.zip"},
		Sums: "DIGEST  ARCHIVE\n", SumsName: "vault_1.17.3_SHA256SUMS", Signed: true,
		Entries: []string{"vault", "LICENSE.txt"},
		Printed: "Vault v1.17.3 (c91c85442144cc8e3b7ec6a8a7e8e8b9a8c9a5d2), built 2024-08-06T14:28:45Z\n",
	},
	{
		Target: "victoria-metrics", Tag: "v1.101.0",
		Files: []string{"victoria-metrics-linux-amd64-v1.101.0-cluster.tar.gz", "victoria-metrics-linux-amd64-v1.101.0-enterprise.tar.gz",
			"victoria-metrics-linux-amd64-v1.101.0_checksums.txt", "vmutils-linux-amd64-v1.101.0.tar.gz"},
		Archives: map[string]string{"linux-amd64": "victoria-metrics-linux-amd64-v1.101.0.tar.gz", "linux-arm64": "victoria-metrics-linux-arm64-v1.101.0.tar.gz",
			"linux-armv7": "victoria-metrics-linux-arm-v1.101.0.tar.gz"},
		Entries: []string{"victoria-metrics-prod"},
		Printed: "victoria-metrics-20240425-145433-tags-v1.101.0-0-g5334f0c2c\n",
	},
}

// Named returns the program of this target.
func Named(target string) Program {
	for _, p := range All {
		if p.Target == target {
			return p
		}
	}
	return Program{}
}
