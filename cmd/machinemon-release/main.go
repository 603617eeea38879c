// Command machinemon-release is the publisher's command; see package publisher.
package main

import (
	"os"

	"github.com/machinemon/machinemon-update/internal/publisher"
)

var version = "devel" // set by the linker

func main() { os.Exit(publisher.Main(os.Args[1:], version)) }
