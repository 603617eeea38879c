package verify

import (
	"bytes"
	"os"

	"github.com/machinemon/machinemon-update/internal/archive"
	"github.com/machinemon/machinemon-update/internal/durable"
)

type kind string

const (
	program kind = "an ELF file"
	script  kind = "a script"
	text    kind = "text"
	other   kind = "neither ELF nor text" // also an empty or missing file; any file may replace one of this kind
)

// runs reports whether a file of this kind can be executed.
func (k kind) runs() bool { return k == program || k == script }

// installedKind returns other for a file that does not exist or cannot be read here.
func installedKind(path string) kind {
	f, err := durable.OpenRegular(path)
	if err != nil {
		return other
	}
	defer f.Close()
	return kindOf(f)
}

func kindOf(f *os.File) kind {
	if archive.IsELF(f) {
		return program
	}
	head := make([]byte, 512)
	n, _ := f.ReadAt(head, 0) // a shorter file is judged by its content so far
	if n == 0 || bytes.IndexByte(head[:n], 0) >= 0 {
		return other
	}
	if bytes.HasPrefix(head, []byte("#!")) {
		return script
	}
	return text
}
