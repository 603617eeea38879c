package manifest

import (
	"runtime"
	"strings"
	"syscall"
)

// Host returns this machine's platform key: the operating system and Go's name
// of the architecture, e.g. "linux-amd64". Go's "arm" is "armv5", "armv6" or
// "armv7" here, because a program for v7 dies on a v6 machine: the kernel tells.
func Host() string {
	arch := runtime.GOARCH
	if arch == "arm" {
		arch = armVersion(machine())
	}
	return runtime.GOOS + "-" + arch
}

// machine is what uname -m prints, e.g. "armv6l"; empty if the kernel does not say.
func machine() string {
	var u syscall.Utsname
	if syscall.Uname(&u) != nil {
		return ""
	}
	var s []byte
	for _, c := range u.Machine { // int8 or uint8, by architecture
		if c == 0 {
			break
		}
		s = append(s, byte(c))
	}
	return string(s)
}

// armVersion takes the kernel's machine name to the newest arm release that is
// sure to run: "armv8l" and "aarch64" (a 32-bit program on a 64-bit kernel) run
// v7, and whatever it does not know runs at least what Raspbian was built for, v6.
func armVersion(machine string) string {
	switch {
	case strings.HasPrefix(machine, "armv7"), strings.HasPrefix(machine, "armv8"), machine == "aarch64":
		return "armv7"
	case strings.HasPrefix(machine, "armv5"):
		return "armv5"
	}
	return "armv6"
}
