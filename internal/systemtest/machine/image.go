package machine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// basePackages are in every image: the packages of a plain Debian server and those that
// our packages depend on, because machines have no network to fetch them.
var basePackages = []string{
	"systemd", "systemd-sysv", "dbus", "ca-certificates", "iproute2", "procps", "e2fsprogs", "passwd", "sudo", "wget",
}

// maskedUnits would take apt's lock or fill the journal, and no test needs them.
var maskedUnits = []string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
	"console-getty.service",
}

// maskedGenerators look, at every boot and reload, for things that no machine here has.
// Booting and reloading are what the tests do most.
var maskedGenerators = []string{
	"systemd-bless-boot-generator", "systemd-cryptsetup-generator", "systemd-debug-generator", "systemd-getty-generator",
	"systemd-gpt-auto-generator", "systemd-hibernate-resume-generator", "systemd-integritysetup-generator",
	"systemd-rc-local-generator", "systemd-run-generator", "systemd-ssh-generator", "systemd-system-update-generator",
	"systemd-sysv-generator", "systemd-tpm2-generator", "systemd-veritysetup-generator",
}

// CacheDir returns the directory of images and runs.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "machinemon-update"), nil
}

// baseImage returns the directory of a base system of the Debian release, and makes it
// if it is missing.
func baseImage(ctx context.Context, cache, release string) (string, error) {
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%q\n%q\n%q", release, basePackages, maskedUnits, maskedGenerators))
	dir := filepath.Join(cache, "images", fmt.Sprintf("%s-%x", release, key[:6]))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}

	temp := dir + ".tmp"
	if err := os.RemoveAll(temp); err != nil { // left by a process that was killed
		return "", err
	}
	args := []string{"mmdebstrap", "--mode=root", "--variant=apt", "--format=directory", "--include=" + strings.Join(basePackages, ",")}
	for _, unit := range maskedUnits {
		args = append(args, fmt.Sprintf(`--customize-hook=ln -s /dev/null "$1"/etc/systemd/system/%s`, unit))
	}
	args = append(args, `--customize-hook=mkdir -p "$1"/etc/systemd/system-generators`)
	for _, generator := range maskedGenerators {
		args = append(args, fmt.Sprintf(`--customize-hook=ln -s /dev/null "$1"/etc/systemd/system-generators/%s`, generator))
	}
	if err := contained(ctx, append(args, release, temp)...); err != nil {
		return "", fmt.Errorf("cannot make a base image of %s: %w", release, err)
	}
	return dir, os.Rename(temp, dir)
}

// contained runs a command in a process namespace of its own. When the command or this
// process ends, the kernel ends all processes that the command started.
func contained(ctx context.Context, argv ...string) error {
	k, err := newKeeper()
	if err != nil {
		return err
	}
	defer k.close()
	var stderr bytes.Buffer
	err = k.do(func() error {
		args := append([]string{"-c", `mount -t proc proc /proc && "$@"; exit $?`, "sh"}, argv...)
		cmd := exec.CommandContext(ctx, "/bin/sh", args...)
		cmd.Stderr = &stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		return cmd.Run()
	})
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", argv[0], err, stderr.Bytes())
	}
	return nil
}
