package machine

import (
	"io/fs"
	"os"
	"path"
	"strings"
)

// Root returns the machine's file system: while the machine runs, as its PID 1 sees it;
// while it is off, its disk only. Names are relative. Absolute symbolic links are
// refused, because they would lead out of the machine.
func (m *Machine) Root() *os.Root {
	if m.live != nil {
		return m.live
	}
	return m.disk
}

func rel(name string) string { return strings.TrimPrefix(path.Clean(name), "/") }

// ReadFile reads a file of the machine.
func (m *Machine) ReadFile(name string) ([]byte, error) { return m.Root().ReadFile(rel(name)) }

// Stat describes a file of the machine; a symbolic link is not followed.
func (m *Machine) Stat(name string) (fs.FileInfo, error) { return m.Root().Lstat(rel(name)) }

// WriteFile writes a file with this mode, owned by root, and makes missing directories.
// An existing file is replaced, not overwritten, because it may be running.
func (m *Machine) WriteFile(name string, content []byte, mode fs.FileMode) error {
	root, name := m.Root(), rel(name)
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	temp := name + ".writefile"
	if err := root.WriteFile(temp, content, mode); err != nil {
		return err
	}
	if err := root.Chmod(temp, mode); err != nil { // our umask may have removed bits
		return err
	}
	return root.Rename(temp, name)
}
