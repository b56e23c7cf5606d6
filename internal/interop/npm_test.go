package interop

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// startNode runs a script of testdata/npm, which is given the directory that has its modules and a port.
func startNode(t *testing.T, script string) *host {
	t.Helper()
	script, err := filepath.Abs(filepath.Join("testdata", "npm", script))
	require.NoError(t, err)
	dir := installNode(t)
	return startHost(t, "node", func(port string) []string { return []string{script, dir, port} })
}

// installNode installs what testdata/npm/package-lock.json lists, and returns where. That is in the
// user's cache, once for each state of that file.
func installNode(t *testing.T) (dir string) {
	t.Helper()
	lists := os.DirFS("testdata/npm")
	lock, err := os.ReadFile("testdata/npm/package-lock.json")
	require.NoError(t, err)
	return cached(t, fmt.Sprintf("npm-%.8x", sha256.Sum256(lock)), func(dir string) *exec.Cmd {
		require.NoError(t, os.CopyFS(dir, lists))
		npm := exec.Command(find(t, "npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		npm.Dir = dir
		return npm
	})
}

// cached returns a directory of the user's cache that install has filled, now or earlier.
func cached(t *testing.T, name string, install func(dir string) *exec.Cmd) (dir string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	cache = filepath.Join(cache, "tcpclient-interop")
	dir = filepath.Join(cache, name)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	require.NoError(t, os.MkdirAll(cache, 0o755))
	part, err := os.MkdirTemp(cache, "part-")
	require.NoError(t, err)
	defer os.RemoveAll(part)
	output, err := install(part).CombinedOutput()
	require.NoError(t, err, "%s", output)
	if err := os.Rename(part, dir); err != nil {
		require.DirExists(t, dir, "%v", err) // another process was faster
	}
	return dir
}
