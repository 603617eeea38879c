package target

import "testing"

// TestKey: records on the machine identify probes by these keys, so a key never changes,
// and no two probes have the same.
func TestKey(t *testing.T) {
	seen := map[string]Probe{}
	for _, p := range []Probe{
		{HTTP: "http://127.0.0.1:1/", ExpectStatus: 200},
		{HTTP: "http://127.0.0.1:1/?token=1", ExpectStatus: 200},
		{HTTP: "http://127.0.0.1:1/?token=2", ExpectStatus: 200},
		{HTTP: "http://127.0.0.1:1/", ExpectStatus: 204},
		{HTTP: "http://127.0.0.1:1/", ExpectStatus: 200, ExpectBody: "ok"},
		{HTTP: "http://127.0.0.1:1/", ExpectClass: 2}, {GRPC: "http://127.0.0.1:1/"},
		{HTTP: "http://127.0.0.1:1/", ExpectStatus: 200, Unix: "/x"},
		{HTTP: "http://127.0.0.1:1/", ExpectStatus: 200, HeadersFile: "/x"},
		{HTTP: "http://127.0.0.1:1/", ExpectStatus: 200, CAFile: "/x"},
		{HTTP: "http://127.0.0.1:1/", ExpectStatus: 200, InsecureSkipTLS: true},
		{HTTP: "http://127.0.0.1:1/", ExpectStatus: 200, Timeout: 1},
		{TCP: "/x"}, {TCP: "/x", Foreign: true}, {Unix: "/x"}, {Command: []string{"/x"}}, {Command: []string{"/x", "a b"}}, {Command: []string{"/x", "a", "b"}},
	} {
		if other, ok := seen[p.Key()]; ok {
			t.Errorf("%#v and %#v have the same key", p, other)
		}
		seen[p.Key()] = p
	}
	for key, p := range map[string]Probe{
		"bbfedd973a7fa945abc8f8efaaa3a98cebfc9af63820c04e1e8160e49f06052a": {HTTP: "http://127.0.0.1:1/", ExpectStatus: 200},
		"64a2e67709812829b406bd6c2db4f7d311bf60eec07eb1fa2f175207f189dd3c": {Command: []string{"/x", "a b"}},
	} {
		if got := p.Key(); got != key {
			t.Errorf("%#v has the key %s, had %s", p, got, key)
		}
	}
}
