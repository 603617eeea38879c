// Machinemon-update-generator is the systemd.generator(7) of machinemon-update.
package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/generate"
	"github.com/machinemon/machinemon-update/internal/target"
)

const usage = "usage: machinemon-update-generator NORMAL-DIR EARLY-DIR LATE-DIR"

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	log := logger{os.Stderr}
	// systemd runs generators before the journal, and drops their stderr: they log
	// to the kernel log (systemd.generator(7)). It must not block, since a container
	// may have an unread FIFO there.
	if kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
		log = append(log, kmsg)
	}
	if err := generate.Run(target.DefaultDirs, os.Args[1], log); err != nil {
		fmt.Fprintln(log, err)
		os.Exit(1)
	}
}

// logger writes each line to all its writers, and ignores their errors.
type logger []io.Writer

func (l logger) Write(line []byte) (int, error) {
	for _, w := range l {
		fmt.Fprintf(w, "machinemon-update-generator: %s", line)
	}
	return len(line), nil
}
