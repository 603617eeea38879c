package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// This file is about a program in the home of the unit's user. Root does not look there, so
// a process of that user does, and can do no more than the user: a link that leads it
// elsewhere does no harm to other users.

// lookAtProgram copies the program at PATH, if it has at most MAX bytes, to OUT, which keeps
// its permissions, for root to read.
func lookAtProgram(_ io.Writer, args []string) error {
	if len(args) != 3 {
		return ErrUsage
	}
	most, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return ErrUsage
	}
	path := args[1]
	f, l, err := ownProgram(path)
	if err == nil && l.st.Size > most {
		f.Close()
		err = fmt.Errorf("it has %d bytes, more than the %d for which there is space", l.st.Size, most)
	}
	if err != nil {
		return failed("look at", path, err)
	}
	defer f.Close()
	to, err := top(args[2])
	if err != nil {
		return err
	}
	defer to.dir.Close()
	out, err := to.create()
	if err != nil {
		return to.wrong(err)
	}
	defer out.Close()
	if _, err := io.CopyN(out, f, l.st.Size); err != nil {
		return failed("copy", path, durable.Cause(err))
	}
	return to.wrong(retry0(func() error { return unix.Fchmod(int(out.Fd()), l.st.Mode&0o777) }))
}

// ownProgram opens the program at a path, if a new file may take its place.
func ownProgram(path string) (*os.File, look, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, look{}, err
	}
	if real != path {
		return nil, look{}, fmt.Errorf("a symbolic link leads to it (hint: name %s)", shown(real))
	}
	f, err := durable.OpenRegular(path)
	if err != nil {
		return nil, look{}, err
	}
	l, err := lookAt(f)
	switch {
	case err != nil:
	case int(l.st.Uid) != os.Geteuid():
		err = fmt.Errorf("it is owned by user %d, and the unit runs as user %d", l.st.Uid, os.Geteuid())
	case l.st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0:
		err = errors.New("it is setuid or setgid")
	case l.attrs[capability] != "":
		err = errors.New("it has file capabilities (hint: give the unit what it needs by AmbientCapabilities= instead)")
	case l.attrs["system.posix_acl_access"] != "":
		err = errors.New("it has an ACL")
	}
	if err != nil {
		f.Close()
		return nil, look{}, err
	}
	return f, l, nil
}

// errNotReplaced says that what is in the place of a program is none of the files that may
// be replaced.
var errNotReplaced = errors.New("another file was put there since, and stays")

// putProgram puts a copy of FILE in the place of the program at PATH, durably, if what is
// there has one of the digests; "-" stands for nothing. It may be killed at any time and
// repeated.
func putProgram(_ io.Writer, args []string) error {
	if len(args) < 3 {
		return ErrUsage
	}
	if err := replaceProgram(args[0], args[1], args[2:]); err != nil {
		return failed("put a file in the place of", args[1], durable.Cause(err))
	}
	return nil
}

func replaceProgram(file, path string, replaces []string) error {
	in, err := durable.OpenRegular(file)
	if err != nil {
		return err
	}
	defer in.Close()
	now, l, err := standing(path)
	if err != nil {
		return err
	}
	want, _, err := durable.SHA256(in)
	if err != nil || now == want {
		return err
	}
	if !slices.Contains(replaces, now) {
		return errNotReplaced
	}
	to, err := data(path)
	if err != nil {
		return err
	}
	defer to.dir.Close()
	temporary := to.temporary()
	if err := temporary.unlink(0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	out, err := temporary.create()
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err = in.Seek(0, io.SeekStart); err == nil {
		_, err = io.Copy(out, in)
	}
	if err == nil {
		err = l.give(out, temporary)
	}
	if err == nil {
		err = retry0(func() error { return unix.Fsync(int(out.Fd())) })
	}
	if err == nil {
		err = temporary.rename(to)
	}
	if err != nil { // on a full disk, the space is needed
		return errors.Join(err, gone(temporary.unlink(0)))
	}
	var s syncer
	return s.durable(to)
}

// standing returns the digest of the program at a path, and the metadata that the file in
// its place shall have.
func standing(path string) (digest string, l look, err error) {
	f, l, err := ownProgram(path)
	if errors.Is(err, fs.ErrNotExist) {
		digest, l = "-", look{st: unix.Stat_t{Mode: unix.S_IFREG | 0o755, Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}}
	} else if err != nil {
		return "", l, err
	} else {
		defer f.Close()
		if digest, _, err = durable.SHA256(f); err != nil {
			return "", l, err
		}
	}
	l.st.Mtim = unix.NsecToTimespec(time.Now().UnixNano())
	return digest, l, nil
}
