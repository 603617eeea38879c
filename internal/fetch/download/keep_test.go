package download

import "testing"

func TestRoomy(t *testing.T) {
	const mb, gb = 1 << 20, 1 << 30
	for _, c := range []struct {
		free, size int64
		want       bool
	}{
		{100 * mb, 200 * mb, true},
		{99 * mb, 200 * mb, false},
		{gb, 100 * gb, true},
		{gb - 1, 100 * gb, false},
		{0, 200 * mb, false},
	} {
		if got := roomy(c.free, c.size); got != c.want {
			t.Errorf("%d bytes of %d are free: %v", c.free, c.size, got)
		}
	}
}
