// Command machinemon-update is the operator's command; see package command.
package main

import (
	"os"

	"github.com/machinemon/machinemon-update/internal/command"
)

var version = "unknown" // set by the linker

func main() { os.Exit(command.Main(os.Args[1:], version)) }
