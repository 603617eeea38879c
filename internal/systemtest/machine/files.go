package machine

import (
	"io/fs"
	"os"
	"path"
	"strings"
)

// Root is the machine's file system: as its PID 1 sees it while it runs, the
// disk alone while it is off. Names are relative; absolute symbolic links are
// refused, as they would lead out of the machine.
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

// WriteFile writes a file of root's with this mode, whatever was there, and
// makes missing directories. The old file is replaced, so it may be running.
func (m *Machine) WriteFile(name string, content []byte, mode fs.FileMode) error {
	root, name := m.Root(), rel(name)
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	temp := name + ".writefile"
	if err := root.WriteFile(temp, content, mode); err != nil {
		return err
	}
	if err := root.Chmod(temp, mode); err != nil { // against our umask
		return err
	}
	return root.Rename(temp, name)
}
