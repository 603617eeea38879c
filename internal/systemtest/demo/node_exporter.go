package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const (
	releasesAt = "127.0.0.1:9000"
	metricsURL = "http://127.0.0.1:9100/metrics"
)

const unitFile = `[Unit]
Description=Prometheus node exporter

[Service]
ExecStart=/usr/local/bin/node_exporter --web.listen-address=127.0.0.1:9100
DynamicUser=yes
Restart=on-failure

[Install]
WantedBy=multi-user.target
`

const targetFile = `description = "Prometheus node exporter"
unit = "node_exporter.service"

[source]
url = "http://` + releasesAt + `/client-manifest.json"

[[install]]
from = "node_exporter-{version}.{os}-{arch}/node_exporter"
to = "/usr/local/bin/node_exporter"

[health]
settle_seconds = 2
version_command = ["/usr/local/bin/node_exporter", "--version"]
[[health.probe]]
http = "` + metricsURL + `"
`

// nodeExporter returns the program of this version, built from the source of the module
// proxy. Its version is set in the way of the project's own builds.
func nodeExporter(ctx context.Context, version string) ([]byte, error) {
	cache, err := machine.CacheDir()
	if err != nil {
		return nil, err
	}
	built := filepath.Join(cache, "node_exporter", version, "node_exporter")
	if b, err := os.ReadFile(built); !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if err := os.MkdirAll(filepath.Dir(built), 0o755); err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp(filepath.Dir(built), "")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	cmd := exec.CommandContext(ctx, "go", "install", "-ldflags", "-s -w -X github.com/prometheus/common/version.Version="+version,
		"github.com/prometheus/node_exporter@v"+version)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+temp)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build node_exporter %s: %w\n%s", version, err, out)
	}
	if err := os.Rename(filepath.Join(temp, "node_exporter"), built); err != nil {
		return nil, err
	}
	return os.ReadFile(built)
}

// publish packs the program as the project's own archives do, and makes a release of it.
func (d *demo) publish(version string, program []byte) error {
	name := fmt.Sprintf("node_exporter-%s.%s", version, manifest.Host())
	archive := filepath.Join(d.m.Directory(), name+".tar.gz")
	if err := releases.Pack(archive, releases.File{Name: name + "/node_exporter", Content: program}); err != nil {
		return err
	}
	return releases.Publish(d.ctx, d.publisher, d.releases, version, archive)
}
