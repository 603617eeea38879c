package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
)

// Usage lists the arguments of the [Verbs].
const Usage = `snapshot-save MAX SRC DST [SRC DST]…
       swapper snapshot-restore BACKUP PATH [BACKUP PATH]…   (BACKUP "-": PATH did not exist)`

// ErrUsage is the error for arguments that a Verb does not accept.
var ErrUsage = errors.New("wrong arguments")

// A Verb does the work of [Save] or [Restore] in a process of the data's user. It takes
// pairs of paths and writes the Summary of each saved one on a line. A path that does not
// exist is not saved, without an error.
type Verb func(out io.Writer, args []string) error

// Verbs are the verbs that a program offers to such a process, by name.
var Verbs = map[string]Verb{"snapshot-save": saveAll, "snapshot-restore": restoreAll}

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
	for pair := args; len(pair) > 0; pair = pair[2:] {
		var err error
		if backup, path := pair[0], pair[1]; backup == "-" {
			_, err = Remove(path)
		} else {
			_, err = Restore(backup, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
