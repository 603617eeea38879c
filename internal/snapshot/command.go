package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
)

// Usage lists the arguments of the [Verbs].
const Usage = `snapshot-save MAX SRC DST [SRC DST]…
       swapper snapshot-reserve BACKUP PATH [BACKUP PATH]…
       swapper snapshot-release BACKUP PATH [BACKUP PATH]…
       swapper snapshot-restore BACKUP PATH [BACKUP PATH]…   (BACKUP "-": PATH did not exist)
       swapper program-look MAX PATH OUT
       swapper program-put FILE PATH DIGEST…   (DIGEST "-": there is no file at PATH)`

// ErrUsage is the error for arguments that a Verb does not accept.
var ErrUsage = errors.New("wrong arguments")

// A Verb does the work of [Save], [Reserve], [Release] or [Restore] in a process of the data's user. It takes
// pairs of paths and writes the Summary of each saved one on a line. A path that does not
// exist is not saved, without an error. The verbs program-look and program-put read and
// replace that user's program.
type Verb func(out io.Writer, args []string) error

// Verbs are the verbs that a program offers to such a process, by name.
var Verbs = map[string]Verb{"snapshot-save": saveAll, "snapshot-reserve": reserveAll, "snapshot-release": releaseAll, "snapshot-restore": restoreAll,
	"program-look": lookAtProgram, "program-put": putProgram}

func saveAll(out io.Writer, args []string) error {
	if len(args) < 3 || len(args)%2 == 0 {
		return ErrUsage
	}
	room, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil || room < 0 {
		return ErrUsage
	}
	for pair := args[1:]; len(pair) > 0; pair = pair[2:] {
		sum, err := Save(pair[0], pair[1], room)
		if err != nil {
			// SQLite's files need not exist, and its journal comes and goes. Lstat
			// decides that, because Save's error may be about the place of the backup.
			if _, missing := os.Lstat(pair[0]); errors.Is(missing, fs.ErrNotExist) {
				continue
			}
			return err
		}
		room -= sum.Allocated
		if _, err := fmt.Fprintln(out, sum); err != nil {
			return err
		}
	}
	return nil
}

func restoreAll(_ io.Writer, args []string) error {
	if len(args) == 0 || len(args)%2 != 0 {
		return ErrUsage
	}
	var failed error
	broken := "" // the last path that could not be restored
	for pair := range slices.Chunk(args, 2) {
		backup, path := pair[0], pair[1]
		if broken != "" && CompanionOf(path, broken) {
			continue // it would damage the database that is there
		}
		var err error
		if backup == "-" {
			_, err = Remove(path)
		} else {
			_, err = Restore(backup, path)
		}
		if err != nil {
			broken = path
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

func reserveAll(_ io.Writer, args []string) error {
	if len(args) == 0 || len(args)%2 != 0 {
		return ErrUsage
	}
	for pair := range slices.Chunk(args, 2) {
		if err := Reserve(pair[0], pair[1]); err != nil {
			return errors.Join(err, releaseAll(nil, args))
		}
	}
	return nil
}

func releaseAll(_ io.Writer, args []string) error {
	if len(args) == 0 || len(args)%2 != 0 {
		return ErrUsage
	}
	var failed error
	for pair := range slices.Chunk(args, 2) {
		failed = errors.Join(failed, Release(pair[0], pair[1]))
	}
	return failed
}
