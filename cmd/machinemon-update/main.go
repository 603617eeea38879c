// Command machinemon-update is the operator's command; see package command.
package main

import (
	"os"
	"syscall"

	"github.com/machinemon/machinemon-update/internal/command"
)

var version = "unknown" // set by the linker

func main() {
	// The workers' users, and all other users, must be able to read what the command
	// writes, regardless of the umask of root's shell.
	syscall.Umask(0o022)
	os.Exit(command.Main(os.Args[1:], version))
}
