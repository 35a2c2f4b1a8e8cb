package main

import (
	"os/exec"
	"testing"
	"time"
)

func TestPackageVersionsFollowWhatGitDescribeSays(t *testing.T) {
	at := time.Date(2026, 11, 26, 3, 4, 5, 0, time.UTC)
	for described, want := range map[string]string{
		"v1.2.3":                  "1.2.3",
		"1.2.3":                   "1.2.3",
		"v1.2.3-rc.1":             "1.2.3~rc.1",
		"v1.2.3-5-g0123abc":       "1.2.3+5.g0123abc",
		"v1.2.3-rc.1-5-g0123abc":  "1.2.3~rc.1+5.g0123abc",
		"0123abc":                 "0.1.0~git20261126030405.0123abc",
		"0123abc-dirty":           "0.1.0~git20261126030405.0123abc.dirty",
		"0.1.0-dev":               "0.1.0~dev",
		"v1.2.3-5-g0123abc-dirty": "1.2.3+5.g0123abc.dirty",
	} {
		if got, err := packageVersion(described, at); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", described, got, err, want)
		}
	}
	for _, bad := range []string{"", "latest", "v1.2", "1.2.3-", "v1.2.3-rc_1", "1.2.3 4", "1.2.3;id"} {
		if got, err := packageVersion(bad, at); err == nil {
			t.Errorf("%q: %q, and no error", bad, got)
		}
	}
}

func TestDpkgSortsPackageVersionsAsTheyWereMade(t *testing.T) {
	at := time.Date(2026, 11, 26, 3, 4, 5, 0, time.UTC)
	before := ""
	for i, described := range []string{"0123abc", "0023abc", "0.1.0-rc.1", "v0.1.0", "v0.1.0-5-g0123abc", "v0.1.1-rc.1", "v0.1.1"} {
		v, err := packageVersion(described, at.Add(time.Duration(i)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if before != "" {
			if err := exec.Command("dpkg", "--compare-versions", before+"-1", "lt", v+"-1").Run(); err != nil {
				t.Errorf("%s does not come before %s", before, v)
			}
		}
		before = v
	}
}
