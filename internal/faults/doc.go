// Package faults has the tests of FAULTS.md: what a client of a framed protocol meets,
// and what this one does about it.
package faults
