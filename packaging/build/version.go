package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// next is the version that comes after what is built without a tag.
const next = "0.1.0"

var (
	released  = regexp.MustCompile(`^v?([0-9]+\.[0-9]+\.[0-9]+)(?:-([0-9A-Za-z][0-9A-Za-z.]*))?$`)
	after     = regexp.MustCompile(`^v?([0-9]+\.[0-9]+\.[0-9]+)(?:-([0-9A-Za-z][0-9A-Za-z.]*))?-([0-9]+)-g([0-9a-f]+)$`)
	commit    = regexp.MustCompile(`^[0-9a-f]{7,40}$`)
	stampForm = "20060102150405"
)

// packageVersion gives the version of the packages, without their revision, for what git describe says: such that dpkg and rpm sort
// a pre-release before its release ("~"), what comes after a tag behind it ("+"), and commits without a tag by their time.
func packageVersion(described string, t time.Time) (string, error) {
	clean, dirty := strings.CutSuffix(described, "-dirty")
	version := ""
	switch {
	case commit.MatchString(clean):
		version = next + "~git" + t.UTC().Format(stampForm) + "." + clean
	case after.MatchString(clean):
		m := after.FindStringSubmatch(clean)
		version = pre(m[1], m[2]) + "+" + m[3] + ".g" + m[4]
	case released.MatchString(clean):
		m := released.FindStringSubmatch(clean)
		version = pre(m[1], m[2])
	default:
		return "", fmt.Errorf("%q is not a version: X.Y.Z, X.Y.Z-PRERELEASE, what git describe makes of a tag of that form, or a commit", described)
	}
	if dirty {
		version += ".dirty"
	}
	return version, nil
}

func pre(version, prerelease string) string {
	if prerelease == "" {
		return version
	}
	return version + "~" + prerelease
}
