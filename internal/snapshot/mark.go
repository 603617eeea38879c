package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/sys/unix"
)

// Mark returns a digest of the metadata of the file or tree at path, whether it exists or
// not. It differs if anything was written there meanwhile: the kernel sets the time of
// change (ctime), which no program can choose.
func Mark(path string) (string, error) {
	h := sha256.New()
	p, err := data(path)
	if err == nil {
		defer p.dir.Close()
		err = p.mark(h, 0)
	}
	if errors.Is(err, unix.ENOENT) {
		return "missing", nil
	}
	if err != nil {
		return "", failed("look at", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (p place) mark(h hash.Hash, depth int) error {
	st, err := p.stat()
	if err != nil {
		return p.wrong(err)
	}
	fmt.Fprintf(h, "%q %d %o %d %d %d %d %d\n", p.path, st.Ino, st.Mode, st.Uid, st.Gid, st.Size, st.Mtim, st.Ctim)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	if err := p.deep(depth); err != nil {
		return err
	}
	d, err := p.openFolder()
	if err != nil {
		return p.wrong(err)
	}
	defer d.Close()
	return p.each(d, func(below place) error { return below.mark(h, depth+1) })
}
