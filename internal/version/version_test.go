package version

import (
	"strings"
	"testing"
)

// TestOrder checks that each version of a row is lower than the later ones only.
func TestOrder(t *testing.T) {
	for _, row := range []string{
		"v1.0.0-alpha v1.0.0-alpha.1 v1.0.0-alpha.beta v1.0.0-beta v1.0.0-beta.2 v1.0.0-beta.11 v1.0.0-rc.1 v1.0.0",
		"2.53.9 v3.0.0-rc.0 3.0.0 v3.5.0 v3.10.0",
		"release-1.4.0 release-1.10.0 2.0.0 release-2.0.1",
		"app/v1.2.3 app/v1.2.4 app@1.3.0",
		"24.3.2.23-lts 24.4.1.2087-stable 24.4.1.2088-stable 24.4.2",
		"v1 1.1 v2 10",
		"go1.9 go1.22.2 n7.0",
		"26.0.0.Beta1 26.0.0.Final 26.1.0.Final",
		"1.2.3~rc1 1.2.3 1.2.3.1",
		"1.8.0rc1 1.8.0 1.8.1",
		"2024.05.09 2024.05.10 2024.11.01",
		"log4j-2.9.1 log4j-2.17.1",
		"v1.27.9+k3s1 v1.28.2+k3s1",
	} {
		all := strings.Fields(row)
		for i, a := range all {
			for j, b := range all {
				if got, want := Lower(a, b), i < j; got != want {
					t.Errorf("Lower(%q, %q) = %v", a, b, got)
				}
			}
		}
	}
	for _, same := range []string{"v1.2.3 1.2.3", "1.2 1.2.0", "24.4.1.2088-stable 24.4.1.2088", "v1.28.2+k3s1 v1.28.2+k3s2", "app@1.2.3 app/v1.2.3"} {
		a, b, _ := strings.Cut(same, " ")
		if Lower(a, b) || Lower(b, a) || !Ordered(a) || !Ordered(b) {
			t.Errorf("%q and %q are not equal", a, b)
		}
	}
}

// TestUnordered checks that these versions are neither lower nor higher than others.
func TestUnordered(t *testing.T) {
	for _, v := range []string{"", "v", "unknown", "build-82", "build-17", "20240509-184542", "2024-05-09", "RELEASE.2024-05-10T01-41-38Z",
		"9fceb02", "1e4f5c7", "sha256-123456789012", "1..2", "1.2.", "1.2.3_4", "1.2.99999999999999999999", "v1.2.3 ", "1.2\n", "-", "jdk8u412-b08"} {
		if Ordered(v) || Lower(v, "99999.0") || Lower("0.0.1", v) {
			t.Errorf("%q has an order", v)
		}
	}
}

func TestRange(t *testing.T) {
	for _, c := range []struct {
		text, has, hasNot string
	}{
		{">=3, <4", "3 v3.0.0 3.5.0 release-3.9 3.5.0.1 3.5.0-lts", "2.53.9 4.0.0 v4.0.0-rc1 3.6.0-rc.0 build-82"},
		{">= 24, < 25", "24.4.1.2088-stable 24.3.2.1-lts", "25.1.1.1-stable 23.8.1.1-lts"},
		{"~> 3.5", "3.5.0 3.9.1", "3.4.9 4.0.0"},
		{"~>3.5.0", "3.5.9", "3.6.0"},
		{"!=3.5.1,>=3.5", "3.5.0 3.5.2", "3.5.1"},
		{"1.2.3", "v1.2.3 app/v1.2.3 1.2.3+build.5", "1.2.4"},
		{"!=3.1.0", "3.0 3.2.0 4.0.0", "3.1.0 3.1.0-rc1 4.0.0-rc1"},
		{">=4.0.0-rc1", "4.0.0-rc2 4.0.0 4.1", "4.1.0-rc1 3.9"},
	} {
		r, err := ParseRange(c.text)
		if err != nil || !r.Bounds() || r.String() != c.text {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		for _, v := range strings.Fields(c.has) {
			if !r.Has(v) {
				t.Errorf("%q has not %q", c.text, v)
			}
		}
		for _, v := range strings.Fields(c.hasNot) {
			if r.Has(v) {
				t.Errorf("%q has %q", c.text, v)
			}
		}
	}
	for _, text := range []string{"", ",", ">=3,", "3 4", ">=3 <4", "latest", ">=", "=>3", "^3", "build-82", "3.x", "\n", strings.Repeat(" ", 300) + ">3"} {
		if _, err := ParseRange(text); err == nil {
			t.Errorf("%q is taken for a range", text)
		}
	}
	if none := (Range{}); none.Bounds() || !none.Has("build-82") || none.String() != "" {
		t.Error("the zero range restricts")
	}
}
