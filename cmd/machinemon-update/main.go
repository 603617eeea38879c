// Command machinemon-update is the operator's command; see package command.
package main

import (
	"os"
	"syscall"

	"github.com/machinemon/machinemon-update/internal/command"
)

var version = "unknown" // set by the linker

func main() {
	// What it writes is for the workers' users, and for everybody to read, whatever
	// umask the shell has that root called it from.
	syscall.Umask(0o022)
	os.Exit(command.Main(os.Args[1:], version))
}
