package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
)

// Usage is what [Command] takes.
const Usage = `snapshot-save MAX SRC DST [SRC DST]…
       swapper snapshot-restore BACKUP PATH [BACKUP PATH]…   (BACKUP "-": PATH did not exist)`

// ErrUsage is for arguments that Command does not take.
var ErrUsage = errors.New("wrong arguments")

// A Verb does the work of [Save] or [Restore] in a process of the user whose data it
// is. It takes pairs of paths; for each that is saved it writes its Summary on a line.
// What is not there is not saved, and is no error.
type Verb func(out io.Writer, args []string) error

// Verbs are what a program offers to such a process, by name.
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
			// SQLite's files need not be there, and a journal of it comes and goes. That
			// it is missing is not for Save's error to say, which may be about the place
			// of the backup.
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
