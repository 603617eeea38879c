package verify

import (
	"encoding/json"
	"io"
	"os"

	"github.com/machinemon/machinemon-update/internal/archive"
	"github.com/machinemon/machinemon-update/internal/manifest"
)

// Listing says what is in an archive.
type Listing struct {
	Contents map[string]manifest.Content `json:"contents,omitempty"` // its regular files
	Error    string                      `json:"error,omitempty"`    // why it is no archive
}

// List writes the [Listing] of an archive to w as JSON. The swapper runs it in a sandbox,
// with an archive that it has checked itself, because only the archive is signed, and not
// the files of the tree. The error is that of writing.
func List(in *os.File, w io.Writer) error {
	l, err := list(in)
	if err != nil {
		l = Listing{Error: err.Error()}
	}
	return json.NewEncoder(w).Encode(l)
}

func list(in *os.File) (Listing, error) {
	info, err := in.Stat()
	if err != nil {
		return Listing{}, err
	}
	all, err := archive.List(io.NewSectionReader(in, 0, info.Size()), archive.Default)
	l := Listing{Contents: map[string]manifest.Content{}}
	for _, f := range all {
		l.Contents[f.Name] = manifest.Content{SHA256: f.SHA256, Size: f.Size}
	}
	return l, err
}
