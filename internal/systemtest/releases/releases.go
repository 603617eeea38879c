// Package releases makes releases for the system tests and serves them, with faults if a
// test asks for them. The real machinemon-release makes what it publishes.
package releases

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Daemon is one build of the test daemon in package daemon, with one of its behaviours;
// "" is "good".
type Daemon struct{ Version, Behaviour string }

// Build builds the daemon and returns it.
func (d Daemon) Build(ctx context.Context) ([]byte, error) { return buildProgram(ctx, "daemon", d) }

// Client is one build of package client, the stand-in for MachineMon's client.
type Client Daemon

// Build builds the client and returns it.
func (c Client) Build(ctx context.Context) ([]byte, error) {
	return buildProgram(ctx, "client", Daemon(c))
}

// Database is one build of package dbd, the test daemon with a database.
type Database Daemon

// Build builds the daemon and returns it.
func (d Database) Build(ctx context.Context) ([]byte, error) {
	return buildProgram(ctx, "dbd", Daemon(d))
}

// Intruder builds package intruder and returns it.
func Intruder(ctx context.Context) ([]byte, error) { return buildProgram(ctx, "intruder", Daemon{}) }

func buildProgram(ctx context.Context, program string, d Daemon) ([]byte, error) {
	temp, err := os.CreateTemp("", "testd-")
	if err != nil {
		return nil, err
	}
	temp.Close()
	defer os.Remove(temp.Name())
	flags := "-s -w -X main.version=" + d.Version
	if d.Behaviour != "" {
		flags += " -X main.behaviour=" + d.Behaviour
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", temp.Name(), "-ldflags", flags,
		"github.com/machinemon/machinemon-update/internal/systemtest/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build the test %s %+v: %w\n%s", program, d, err, out)
	}
	return os.ReadFile(temp.Name())
}

// File is one regular file in an archive, or a symbolic link if it has a Link.
type File struct {
	Name    string
	Content []byte
	Link    string
}

// Pack writes an archive. The end of its name, .tar.gz or .tar.zst, sets the format.
func Pack(archive string, files ...File) (err error) {
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var packed io.WriteCloser
	switch {
	case strings.HasSuffix(archive, ".tar.gz"):
		packed = gzip.NewWriter(f)
	case strings.HasSuffix(archive, ".tar.zst"):
		if packed, err = zstd.NewWriter(f); err != nil {
			return err
		}
	default:
		return fmt.Errorf("cannot pack %s: not .tar.gz or .tar.zst", archive)
	}
	w := tar.NewWriter(packed)
	for _, file := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: file.Name, Mode: 0o755, Size: int64(len(file.Content))}
		if file.Link != "" {
			header.Typeflag, header.Linkname = tar.TypeSymlink, file.Link
		}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := w.Write(file.Content); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), packed.Close())
}

// Publish runs program, a path of machinemon-release, on the archives. There may be
// options among archives.
func Publish(ctx context.Context, program, dir, version string, archives ...string) error {
	args := append([]string{"publish", dir, "--version", version}, archives...)
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot publish %s: %w\n%s", version, err, out)
	}
	return nil
}
