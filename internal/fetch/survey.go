package fetch

import (
	"context"
	"encoding/json"
	"io"
	"os"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Survey is what a source has for this machine, for the author of a target file.
type Survey struct {
	Version string   `json:"version,omitempty"`
	Product string   `json:"product,omitempty"` // as the manifest says
	Names   []string `json:"names,omitempty"`   // of the release's files, if no archive is chosen yet
	File    string   `json:"file,omitempty"`    // the archive
	Size    int64    `json:"size,omitempty"`    // of the archive, in bytes

	Result state.Result `json:"result,omitempty"` // of a failure
	Error  string       `json:"error,omitempty"`
}

// Surveyed is a source for which there is no target file yet. Asset is the name of the
// archive on GitHub, "" as long as it is not chosen. If systemd handed a token over, that is
// the repository's.
type Surveyed struct{ Type, Address, Asset string }

// target returns a target with this source.
func (s Surveyed) target() *target.Target {
	t := &target.Target{Name: "init", Trust: target.Trust{Mode: target.TrustChecksum}, Source: target.Source{Type: s.Type}}
	switch s.Type {
	case target.SourceGitHub:
		t.Source.Repo, t.Source.Asset, t.Source.URL = s.Address, s.Asset, target.GitHubAPI
		if os.Getenv("CREDENTIALS_DIRECTORY") != "" {
			t.Source.TokenFile = "--token-file"
		}
	case target.SourceFile:
		t.Source.Path = s.Address
	default:
		t.Source.URL = s.Address
	}
	return t
}

// AnswerSurvey writes the [Survey] of a source to w as JSON. The error is that of writing.
func AnswerSurvey(ctx context.Context, s Surveyed, w io.Writer) error {
	answer, err := survey(ctx, s)
	if err != nil {
		answer = Survey{Result: state.ResultOf(err), Error: err.Error()}
	}
	return json.NewEncoder(w).Encode(answer)
}

func survey(ctx context.Context, s Surveyed) (Survey, error) {
	if s.Type == target.SourceGitHub && s.Asset == "" {
		version, names, err := source.Names(ctx, s.target(), download.DefaultLimits)
		return Survey{Version: version, Names: names}, err
	}
	_, r, err := s.resolve(ctx)
	if err != nil {
		return Survey{}, err
	}
	return Survey{Version: r.Manifest.Version, Product: r.Manifest.Product, File: r.Platform.File, Size: r.Platform.Size}, nil
}

func (s Surveyed) resolve(ctx context.Context) (source.Source, *source.Release, error) {
	src, err := source.New(s.target(), "", download.DefaultLimits, target.CheckRootOnly)
	if err != nil {
		return nil, nil, err
	}
	r, err := source.Resolve(ctx, src, "")
	return src, r, err
}

// WriteArchive writes the archive of the newest release to w.
func WriteArchive(ctx context.Context, s Surveyed, w io.Writer) error {
	src, r, err := s.resolve(ctx)
	if err != nil {
		return err
	}
	body, err := src.Archive(ctx, r.Platform, download.Piece{})
	if err != nil {
		return err
	}
	defer body.Close()
	if r.Platform.SHA256 == download.UnknownDigest {
		r.Platform.SHA256 = ""
	}
	sums := r.Platform.Sums()
	t := download.Transfer{Report: func(int64, int64) {}}
	if _, err := t.Receive(io.MultiWriter(w, sums), body, 0, r.Platform.Size, body.Name); err != nil {
		return durable.Cause(err)
	}
	if wrong := sums.Wrong(); wrong != "" {
		return state.Refused("cannot use %s: %s", body.Name, wrong)
	}
	return nil
}
