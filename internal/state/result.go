package state

import (
	"errors"
	"fmt"
)

// Failure is an error with the result that it means for the attempt.
type Failure struct {
	Result Result
	Err    error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// Fail makes a Failure; format as in [fmt.Errorf].
func Fail(r Result, format string, args ...any) error {
	return &Failure{r, fmt.Errorf(format, args...)}
}

// ResultOf is the result that an error means: its Failure's, else [ResultFailed].
func ResultOf(err error) Result {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f.Result
	}
	return ResultFailed
}
