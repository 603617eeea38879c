package command

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// examineMachine returns what concerns every target. m is nil without systemd.
func (a *app) examineMachine(m machine) []finding {
	findings := []finding{clockFinding(time.Now(), a.clock)}
	if m == nil {
		findings = append(findings, found(levelBad, "systemd", "it does not run here, or does not answer: nothing is updated"))
	}
	if err := a.tree.Leaving(); err != nil {
		findings = append(findings, found(levelBad, "package", err.Error()))
	}
	for _, line := range a.targets.Unread() {
		findings = append(findings, found(levelWarn, "files", line))
	}
	if a.root { // the limit is each user's own, and the path units are root's
		findings = append(findings, inotifyFinding(inotifyLeft(inotifyWanted)))
	}
	return findings
}

// clockFinding returns what is known about the clock. An unset clock makes certificates and
// signatures look expired, or not valid yet.
func clockFinding(now time.Time, synchronised func() (bool, error)) finding {
	is, err := synchronised()
	at := now.Format(minutes + " MST")
	switch {
	case err != nil:
		return found(levelOK, "clock", at+"; whether it is synchronised cannot be found out: "+err.Error())
	case !is:
		return found(levelWarn, "clock", at+", not synchronised: with a wrong time, certificates and signatures are refused").
			with("timedatectl shows why; sudo timedatectl set-ntp true")
	}
	return found(levelOK, "clock", at+", synchronised")
}

// clockSynchronised reports whether something keeps the kernel's clock synchronised.
func clockSynchronised() (bool, error) {
	var t unix.Timex
	status, err := unix.Adjtimex(&t) // with no modes set it only reads
	return status != unix.TIME_ERROR, err
}

// inotifyWanted is how many inotify instances a new target's path units take.
const inotifyWanted = 3

// inotifyLeft returns how many inotify instances this user may still make, at most most.
func inotifyLeft(most int) (n int, err error) {
	for ; n < most; n++ {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if errors.Is(err, unix.EMFILE) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		defer unix.Close(fd)
	}
	return n, nil
}

func inotifyFinding(left int, err error) finding {
	const cure = "sudo sysctl fs.inotify.max_user_instances=1024, and a file in /etc/sysctl.d that keeps it"
	switch {
	case err != nil:
		return found(levelWarn, "inotify", "cannot make an instance: "+err.Error())
	case left == 0:
		return found(levelBad, "inotify", "root has used all its instances: the path units that start the next step cannot be started").with(cure)
	case left < inotifyWanted:
		return found(levelWarn, "inotify", "root has used nearly all its instances: the path units of another target could not be started").with(cure)
	}
	return found(levelOK, "inotify", "path units can be started")
}
