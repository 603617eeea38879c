// Package releases makes releases for the system tests and serves them, with faults if a
// test asks for them. The real machinemon-release makes what it publishes.
package releases

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

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
func Intruder(ctx context.Context) ([]byte, error) { return link(ctx, "intruder") }

// What the built programs say, until [stamp] replaces it. The NUL bytes that fill the
// rest of the place are cut off by the programs.
const (
	anyVersion   = "version-of-a-program-that-is-not-stamped-yet"
	anyBehaviour = "behaviour-of-a-program-that-is-not-stamped"
)

var built sync.Map // from a program's name to func() ([]byte, error)

// buildProgram links each program once, because a test run has hundreds of versions of
// them, and a link takes a second.
func buildProgram(ctx context.Context, program string, d Daemon) ([]byte, error) {
	once, _ := built.LoadOrStore(program, sync.OnceValues(func() ([]byte, error) { return link(context.WithoutCancel(ctx), program) }))
	content, err := once.(func() ([]byte, error))()
	if err != nil {
		return nil, err
	}
	content = bytes.Clone(content)
	for place, text := range map[string]string{anyVersion: d.Version, anyBehaviour: cmp.Or(d.Behaviour, "good")} {
		if err := stamp(content, place, text); err != nil {
			return nil, fmt.Errorf("cannot build the test %s %+v: %w", program, d, err)
		}
	}
	return content, nil
}

// link links a program as a real release is linked, apart from the texts.
func link(ctx context.Context, program string) ([]byte, error) {
	temp, err := os.CreateTemp("", "testd-")
	if err != nil {
		return nil, err
	}
	temp.Close()
	defer os.Remove(temp.Name())
	cmd := exec.CommandContext(ctx, "go", "build", "-o", temp.Name(), "-ldflags", "-s -w -X main.version="+anyVersion+" -X main.behaviour="+anyBehaviour,
		"github.com/machinemon/machinemon-update/internal/systemtest/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build the test program %s: %w\n%s", program, err, out)
	}
	return os.ReadFile(temp.Name())
}

// stamp writes text over the place's own text. The record of the link's options has it,
// too.
func stamp(program []byte, place, text string) error {
	if len(text) > len(place) {
		return fmt.Errorf("%q is longer than %d bytes", text, len(place))
	}
	if !bytes.Contains(program, []byte(place)) {
		return fmt.Errorf("%q is not in it", place)
	}
	for at := bytes.Index(program, []byte(place)); at >= 0; at = bytes.Index(program, []byte(place)) {
		clear(program[at+copy(program[at:], text) : at+len(place)])
	}
	return nil
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
