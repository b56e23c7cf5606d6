// Package soak has the test that uses Clients at random for as long as it is told to.
package soak
