package archive

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// maxWindow is the memory in bytes that a zstd frame or an xz block may ask for: zstd -d's
// default, which suffices for zstd --ultra -22 and --long, and twice what xz -9 asks for.
const maxWindow = 128 << 20

var errNotEnd = errors.New("there is something after the end of the compressed stream")

// A compression is recognised by the first bytes of a file. Its decoder also reads what
// follows the first stream: more of them, to the end of the file, and nothing else.
type compression struct {
	magic string
	open  func(io.Reader) (r io.Reader, closeReader func(), err error)
}

var compressions = []compression{
	{"\x1f\x8b", openGzip},
	{"\x28\xb5\x2f\xfd", openZstd},
	{"\xfd7zXZ\x00", openXZ},
	{"BZh", openBzip2},
}

func compressed(head []byte) bool {
	for _, c := range compressions {
		if strings.HasPrefix(string(head), c.magic) {
			return true
		}
	}
	return false
}

// decompress returns a reader of the content of in, which is in itself if no compression
// is recognised.
func decompress(in *bufio.Reader) (r io.Reader, closeReader func(), err error) {
	head, err := in.Peek(6)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	for _, c := range compressions {
		if strings.HasPrefix(string(head), c.magic) {
			return c.open(in)
		}
	}
	return in, func() {}, nil
}

func openGzip(in io.Reader) (io.Reader, func(), error) {
	z, err := gzip.NewReader(in)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, nil, err
	}
	return translated{z, func(err error) error {
		if errors.Is(err, gzip.ErrHeader) {
			return errNotEnd // the first header was valid
		}
		return err
	}}, func() { z.Close() }, nil
}

func openZstd(in io.Reader) (io.Reader, func(), error) {
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, nil, err
	}
	return z, z.Close, nil
}

func openXZ(in io.Reader) (io.Reader, func(), error) {
	explain := func(err error) error {
		switch {
		case errors.Is(err, xz.ErrMemlimit):
			return fmt.Errorf("its xz dictionary is larger than %d MiB", maxWindow>>20)
		case errors.Is(err, xz.ErrFormat):
			return errNotEnd // the first header was valid
		}
		return err
	}
	z, err := xz.NewReader(in, maxWindow)
	if err != nil {
		return nil, nil, explain(err)
	}
	return translated{z, explain}, func() {}, nil
}

func openBzip2(in io.Reader) (io.Reader, func(), error) {
	return bzip2.NewReader(in), func() {}, nil
}

// translated explains the errors of its reader.
type translated struct {
	io.Reader
	explain func(error) error
}

func (t translated) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	return n, t.explain(err)
}
