package manifest

import (
	"runtime"
	"strings"
	"syscall"
)

// Host returns this machine's platform key: the operating system and Go's name of the
// architecture, e.g. "linux-amd64". Instead of Go's "arm" it returns the kernel's version
// of it, "armv5", "armv6" or "armv7", because programs for v7 crash on v6 machines.
func Host() string {
	arch := runtime.GOARCH
	if arch == "arm" {
		arch = armVersion(machine())
	}
	return runtime.GOOS + "-" + arch
}

// machine returns what uname -m prints, e.g. "armv6l", or "" if uname(2) fails.
func machine() string {
	var u syscall.Utsname
	if syscall.Uname(&u) != nil {
		return ""
	}
	var s []byte
	for _, c := range u.Machine { // c is an int8 or uint8, depending on the architecture
		if c == 0 {
			break
		}
		s = append(s, byte(c))
	}
	return string(s)
}

// armVersion returns the newest arm version that runs on a machine of this name (uname
// -m). "armv8l" and "aarch64" (a 32-bit program on a 64-bit kernel) run v7. Unknown ones
// count as v6, for which Raspbian is built.
func armVersion(machine string) string {
	switch {
	case strings.HasPrefix(machine, "armv7"), strings.HasPrefix(machine, "armv8"), machine == "aarch64":
		return "armv7"
	case strings.HasPrefix(machine, "armv5"):
		return "armv5"
	}
	return "armv6"
}
