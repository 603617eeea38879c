package target

import (
	"bytes"
	"errors"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// A fragment is one file as written: nil where the file has no such key.
// The same type holds the merged keys of all files.
type fragment struct {
	Description                *string `toml:"description"`
	Unit                       *string `toml:"unit"`
	AutoUpdateEnabled          *bool   `toml:"auto_update_enabled"`
	AutoUpdateCheckEverySecond *int64  `toml:"auto_update_check_every_seconds"`

	Source struct {
		Type            *string `toml:"type"`
		URL             *string `toml:"url"`
		Path            *string `toml:"path"`
		Versions        *string `toml:"versions"`
		Downgrade       *bool   `toml:"downgrade"`
		InsecureSkipTLS *bool   `toml:"insecure_skip_tls"`
		CAFile          *string `toml:"ca_file"`
		Proxy           *string `toml:"proxy"`
		Repo            *string `toml:"repo"`
		Asset           *string `toml:"asset"`
		Tag             *string `toml:"tag"`
		APIURL          *string `toml:"api_url"`
		TokenFile       *string `toml:"token_file"`

		URLFrom struct {
			File   *string `toml:"file"`
			Key    *string `toml:"key"`
			Append *string `toml:"append"`
		} `toml:"url_from"`
	} `toml:"source"`

	Trust struct {
		Mode                 *string `toml:"mode"`
		Root                 *string `toml:"root"`
		Product              *string `toml:"product"`
		AllowUnauthenticated *bool   `toml:"allow_unauthenticated"`
	} `toml:"trust"`

	Install *[]installFragment `toml:"install"`

	InstallManifest struct {
		File     *string         `toml:"file"`
		Optional *bool           `toml:"optional"`
		Type     *[]typeFragment `toml:"type"`
	} `toml:"install_manifest"`

	Rollback struct {
		Snapshot         *[]string `toml:"snapshot"`
		SnapshotMaxBytes *int64    `toml:"snapshot_max_bytes"`
		Stop             *bool     `toml:"stop"`
	} `toml:"rollback"`

	Hooks struct {
		PreSwap    *[]string `toml:"pre_swap"`
		PostCommit *[]string `toml:"post_commit"`
	} `toml:"hooks"`

	Health struct {
		TimeoutSeconds *int64           `toml:"timeout_seconds"`
		SettleSeconds  *int64           `toml:"settle_seconds"`
		Main           *string          `toml:"main"`
		VersionCommand *[]string        `toml:"version_command"`
		Probe          *[]probeFragment `toml:"probe"`
	} `toml:"health"`
}

type installFragment struct {
	From     *string `toml:"from"`
	To       *string `toml:"to"`
	Mode     *string `toml:"mode"`
	Owner    *string `toml:"owner"`
	Group    *string `toml:"group"`
	Optional *bool   `toml:"optional"`
}

type typeFragment struct {
	Name      *string   `toml:"name"`
	Directory *string   `toml:"directory"`
	Mode      *string   `toml:"mode"`
	Allow     *[]string `toml:"allow"`
	Exclude   *[]string `toml:"exclude"`
}

type probeFragment struct {
	HTTP         *string   `toml:"http"`
	ExpectStatus *int64    `toml:"expect_status"`
	ExpectBody   *string   `toml:"expect_body"`
	TCP          *string   `toml:"tcp"`
	Unix         *string   `toml:"unix"`
	Command      *[]string `toml:"command"`
	Journal      *string   `toml:"journal"`
}

// parse decodes the content of one file and returns the line of each of its
// keys. Keys that are unknown or hold a wrong type are refused; what a value
// means is for validate, when all files are merged.
func parse(data []byte) (*fragment, map[string]int, *ConfigError) {
	lines, wrong, syntaxErr := index(data)
	if wrong != nil {
		return nil, nil, wrong
	}
	var f fragment
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&f)
	if err == nil {
		err = syntaxErr
	}
	if err == nil {
		return &f, lines, nil
	}
	problem := &ConfigError{Problem: "is not valid TOML: " + withoutContent(err.Error())}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		problem.Line, _ = de.Position()
	}
	return nil, nil, problem
}

// go-toml's messages tell which character of the file surprised it.
var character = regexp.MustCompile(` (but got )?U\+[0-9A-F]+( '[^']*')?`)

func withoutContent(message string) string {
	message = strings.TrimPrefix(message, "toml: ")
	return strings.TrimRight(character.ReplaceAllString(message, ""), ": ")
}

// merge overrides keys of f by those that high has, arrays as a whole.
func (f *fragment) merge(high *fragment) {
	over(&f.Description, high.Description)
	over(&f.Unit, high.Unit)
	over(&f.AutoUpdateEnabled, high.AutoUpdateEnabled)
	over(&f.AutoUpdateCheckEverySecond, high.AutoUpdateCheckEverySecond)
	over(&f.Source.Type, high.Source.Type)
	over(&f.Source.URL, high.Source.URL)
	over(&f.Source.Path, high.Source.Path)
	over(&f.Source.Versions, high.Source.Versions)
	over(&f.Source.Downgrade, high.Source.Downgrade)
	over(&f.Source.InsecureSkipTLS, high.Source.InsecureSkipTLS)
	over(&f.Source.CAFile, high.Source.CAFile)
	over(&f.Source.Proxy, high.Source.Proxy)
	over(&f.Source.URLFrom.File, high.Source.URLFrom.File)
	over(&f.Source.URLFrom.Key, high.Source.URLFrom.Key)
	over(&f.Source.URLFrom.Append, high.Source.URLFrom.Append)
	over(&f.Source.Repo, high.Source.Repo)
	over(&f.Source.Asset, high.Source.Asset)
	over(&f.Source.Tag, high.Source.Tag)
	over(&f.Source.APIURL, high.Source.APIURL)
	over(&f.Source.TokenFile, high.Source.TokenFile)
	over(&f.Trust.Mode, high.Trust.Mode)
	over(&f.Trust.Root, high.Trust.Root)
	over(&f.Trust.Product, high.Trust.Product)
	over(&f.Trust.AllowUnauthenticated, high.Trust.AllowUnauthenticated)
	over(&f.Install, high.Install)
	over(&f.InstallManifest.File, high.InstallManifest.File)
	over(&f.InstallManifest.Optional, high.InstallManifest.Optional)
	over(&f.InstallManifest.Type, high.InstallManifest.Type)
	over(&f.Rollback.Snapshot, high.Rollback.Snapshot)
	over(&f.Rollback.SnapshotMaxBytes, high.Rollback.SnapshotMaxBytes)
	over(&f.Rollback.Stop, high.Rollback.Stop)
	over(&f.Hooks.PreSwap, high.Hooks.PreSwap)
	over(&f.Hooks.PostCommit, high.Hooks.PostCommit)
	over(&f.Health.TimeoutSeconds, high.Health.TimeoutSeconds)
	over(&f.Health.SettleSeconds, high.Health.SettleSeconds)
	over(&f.Health.Main, high.Health.Main)
	over(&f.Health.VersionCommand, high.Health.VersionCommand)
	over(&f.Health.Probe, high.Health.Probe)
}

func over[T any](low **T, high *T) {
	if high != nil {
		*low = high
	}
}

func valueOr[T any](p *T, or T) T {
	if p == nil {
		return or
	}
	return *p
}
