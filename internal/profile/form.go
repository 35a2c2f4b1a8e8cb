package profile

import "strings"

// The forms are written out: a regular expression would be compiled at each start of a program that holds this package,
// also where no profile is read.

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

// isName tells whether s is 1 to 63 of a-z, 0-9, "_", "." and "-", beginning with a letter or digit.
func isName(s string) bool {
	return 1 <= len(s) && len(s) <= 63 && only(s, lower+digits+"_.-") && only(s[:1], lower+digits)
}

// isSHA256 tells whether s is 64 hexadecimal digits in lower case.
func isSHA256(s string) bool { return len(s) == 64 && only(s, digits+"abcdef") }

// isMode tells whether s is a file mode of three octal digits, with or without a 0 before them.
func isMode(s string) bool {
	if len(s) == 4 {
		s = strings.TrimPrefix(s, "0")
	}
	return len(s) == 3 && only(s, "01234567")
}

// isNamespace tells whether s is letters and digits with single "-", "_" or "." between them (containerd, pkg/identifiers).
func isNamespace(s string) bool {
	between := false // a letter or digit came last
	for i := range len(s) {
		letter := only(s[i:i+1], lower+upper+digits)
		if !letter && (!between || !only(s[i:i+1], "-_.")) {
			return false
		}
		between = letter
	}
	return between
}

func only(s, allowed string) bool { return strings.Trim(s, allowed) == "" }
