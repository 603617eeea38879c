package state

import "testing"

func TestAftermath(t *testing.T) {
	for _, c := range []struct {
		of   Attempt
		want string
	}{
		{Attempt{Result: ResultCommitted, Healthy: true}, ""},
		{Attempt{Result: ResultFailed}, ""},
		{Attempt{Result: ResultRollbackFailed, Unhealthy: "x"}, ""},
		{Attempt{Result: ResultRolledBack, From: "v1", Healthy: true}, "v1 runs again"},
		{Attempt{Result: ResultInterrupted, Healthy: true}, "what ran before runs again"},
		{Attempt{Result: ResultRolledBack, From: "v1", Reason: "no", Unhealthy: "status 500"}, "v1 is back, but is not healthy: status 500"},
		{Attempt{Result: ResultRolledBack, From: "v1", Reason: "no: status 500", Unhealthy: "status 500"}, "v1 is back, but is not healthy"},
		{Attempt{Result: ResultRolledBack, From: "v1"}, "the files of v1 are in place"}, // as an earlier version recorded it
		{Attempt{Result: ResultInterrupted}, "the files of before are in place"},
	} {
		if got := c.of.Aftermath(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.of, got, c.want)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		of       Attempt
		from, to string
	}{
		{Attempt{Result: ResultNotAttempted}, "", ""},
		{Attempt{Result: ResultRefused, Version: "v2"}, "", "v2"},
		{Attempt{Result: ResultCommitted, Version: "v2"}, Unknown, "v2"},
		{Attempt{Result: ResultOnTrial, From: "v2"}, "v2", Unknown},
		{Attempt{Result: ResultRolledBack, From: "v1", Version: "v2"}, "v1", "v2"},
	} {
		if from, to := c.of.Versions(); from != c.from || to != c.to {
			t.Errorf("%+v: from %q to %q", c.of, from, to)
		}
	}
	if v2, none := Called("v2"), Called(""); v2 != "v2" || none != "the files of before, version unknown" {
		t.Errorf("called %q and %q", v2, none)
	}
}
