package manifest

import "testing"

func BenchmarkParse(b *testing.B) {
	b.SetBytes(int64(len(full)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse([]byte(full)); err != nil {
			b.Fatal(err)
		}
	}
}
