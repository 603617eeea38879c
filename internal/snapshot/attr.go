package snapshot

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	selinux    = "security.selinux"
	capability = "security.capability"
)

// counts reports whether a backup keeps an extended attribute. The others belong to the
// file system, or another part of the kernel maintains them. File capabilities count only
// so that Restore removes them: Save refuses them.
func counts(name string) bool {
	return strings.HasPrefix(name, "user.") || name == selinux || name == capability ||
		name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

// A look is the metadata of an entry.
type look struct {
	st    unix.Stat_t
	attrs map[string]string
	leads string // where a symbolic link leads
}

// xattr has the calls for the extended attributes of one entry.
type xattr struct {
	list func(buf []byte) (int, error)
	get  func(name string, buf []byte) (int, error)
	set  func(name, value string) error
	drop func(name string) error
}

func xattrOf(f *os.File) xattr {
	fd := int(f.Fd())
	return xattr{
		func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) },
		func(name string, buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) },
		func(name, value string) error { return unix.Fsetxattr(fd, name, []byte(value), 0) },
		func(name string) error { return unix.Fremovexattr(fd, name) },
	}
}

// xattrOfLink is xattrOf for a symbolic link, which cannot be opened.
func (p place) xattrOfLink() xattr {
	path := p.procPath()
	return xattr{
		func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) },
		func(name string, buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) },
		func(name, value string) error { return unix.Lsetxattr(path, name, []byte(value), 0) },
		func(name string) error { return unix.Lremovexattr(path, name) },
	}
}

// read returns the attributes that count; none if the file system has no attributes.
func (x xattr) read() (map[string]string, error) {
	list, err := fill(x.list)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list its extended attributes: %w", err)
	}
	attrs := map[string]string{}
	for _, name := range strings.Split(list, "\x00") {
		if !counts(name) {
			continue
		}
		value, err := fill(func(buf []byte) (int, error) { return x.get(name, buf) })
		switch {
		case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
			continue
		case err != nil:
			return nil, fmt.Errorf("cannot read its attribute %s: %w", name, err)
		}
		attrs[name] = value
	}
	return attrs, nil
}

// fill calls until the buffer is large enough: an attribute may grow meanwhile.
func fill(call func(buf []byte) (int, error)) (string, error) {
	for {
		n, err := retry(func() (int, error) { return call(nil) })
		if err != nil || n == 0 {
			return "", err
		}
		buf := make([]byte, n)
		n, err = retry(func() (int, error) { return call(buf) })
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		return string(buf[:max(n, 0)]), err
	}
}

// write sets the attributes that count to those of want.
func (x xattr) write(want map[string]string) error {
	have, err := x.read()
	if err != nil {
		return err
	}
	for name := range have {
		// A label that the kernel gave a new file is better than none.
		if _, wanted := want[name]; wanted || name == selinux {
			continue
		}
		if err := retry0(func() error { return x.drop(name) }); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("cannot remove its attribute %s: %w", name, err)
		}
	}
	for name, value := range want {
		if old, there := have[name]; there && old == value {
			continue
		}
		err := retry0(func() error { return x.set(name, value) })
		if name == selinux && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP)) {
			continue // the kernel uses no labels now, unlike when the backup was made
		}
		if err != nil {
			return fmt.Errorf("cannot keep its attribute %s: %w", name, err)
		}
	}
	return nil
}

// sameAttrs reports whether the attributes of an entry are those of its backup. A backup
// made without SELinux has no label, which is not compared then.
func sameAttrs(backup, now map[string]string) bool {
	if _, labelled := backup[selinux]; !labelled {
		now = maps.Clone(now)
		delete(now, selinux)
	}
	return maps.Equal(backup, now)
}

func lookAt(f *os.File) (l look, err error) {
	if l.st, err = fstat(f); err != nil {
		return l, err
	}
	l.attrs, err = xattrOf(f).read()
	return l, err
}

func (l look) same(now look) bool {
	return l.st.Mode == now.st.Mode && l.st.Uid == now.st.Uid && l.st.Gid == now.st.Gid && l.leads == now.leads && sameAttrs(l.attrs, now.attrs)
}

// give sets the metadata of the open file or directory f at p to l.
func (l look) give(f *os.File, p place) error {
	now, err := fstat(f)
	if err != nil {
		return err
	}
	err = l.giveOwner(now, func(uid, gid int) error { return unix.Fchown(int(f.Fd()), uid, gid) })
	if err != nil {
		return err
	}
	if err := xattrOf(f).write(l.attrs); err != nil {
		return err
	}
	// The mode comes after the owner, whose change clears setuid and setgid, and after
	// the ACL, whose mask is stored in the group's permissions.
	if now, err = fstat(f); err == nil && now.Mode != l.st.Mode {
		if err = retry0(func() error { return unix.Fchmod(int(f.Fd()), l.st.Mode&0o7777) }); err == nil {
			now, err = fstat(f)
		}
		if err == nil && now.Mode != l.st.Mode { // without CAP_FSETID the kernel drops setgid without an error
			err = unix.EPERM
		}
		if err != nil {
			err = fmt.Errorf("cannot give it the mode %04o: %w", l.st.Mode&0o7777, err)
		}
	}
	if err != nil {
		return err
	}
	return l.giveTime(p)
}

// giveOwner sets the owner and the group of an entry that has those of now.
func (l look) giveOwner(now unix.Stat_t, chown func(uid, gid int) error) error {
	if now.Uid == l.st.Uid && now.Gid == l.st.Gid {
		return nil
	}
	if err := retry0(func() error { return chown(int(l.st.Uid), int(l.st.Gid)) }); err != nil {
		return fmt.Errorf("cannot give it the owner %d and the group %d: %w", l.st.Uid, l.st.Gid, err)
	}
	return nil
}

// giveTime sets the entry's time of modification.
func (l look) giveTime(p place) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, l.st.Mtim}
	if err := retry0(func() error { return unix.UtimesNanoAt(p.fd(), p.name, ts, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return fmt.Errorf("cannot give it its time: %w", err)
	}
	return nil
}

// giveLink is give for the symbolic link at p, which has no permissions.
func (l look) giveLink(p place) error {
	now, err := p.stat()
	if err != nil {
		return err
	}
	err = l.giveOwner(now, func(uid, gid int) error { return unix.Fchownat(p.fd(), p.name, uid, gid, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return err
	}
	if err := p.xattrOfLink().write(l.attrs); err != nil {
		return err
	}
	return l.giveTime(p)
}

func (p place) lookAtLink() (l look, err error) {
	if l.st, err = p.stat(); err != nil {
		return l, err
	}
	if l.leads, err = p.readlink(); err != nil {
		return l, err
	}
	l.attrs, err = p.xattrOfLink().read()
	return l, err
}
