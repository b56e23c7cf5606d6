// Package cookbook holds the code of COOKBOOK.md. Each block there stands in a test file here, word
// for word, and a test has it talk to a server that says and expects the bytes of the protocol's own
// document.
package cookbook
