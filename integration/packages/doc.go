// Package packages has the tests of the packages, which make packages-test runs.
package packages
