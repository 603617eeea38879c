package state

import (
	"errors"
	"fmt"
)

// Failure is an error with the result that it gives the attempt.
type Failure struct {
	Result Result
	Err    error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// Fail makes a Failure. Its format and args are those of [fmt.Errorf].
func Fail(r Result, format string, args ...any) error {
	return &Failure{r, fmt.Errorf(format, args...)}
}

// Refused makes a Failure with [ResultRefused].
func Refused(format string, args ...any) error { return Fail(ResultRefused, format, args...) }

// NotDownloaded makes a Failure with [ResultNotDownloaded].
func NotDownloaded(format string, args ...any) error {
	return Fail(ResultNotDownloaded, format, args...)
}

// ResultOf returns the result of the error's Failure, or [ResultFailed] if it has none.
func ResultOf(err error) Result {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f.Result
	}
	return ResultFailed
}
