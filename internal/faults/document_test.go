package faults

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFaultsDocument(t *testing.T) {
	// Rows begin with their number; those without one have none of that column.
	row := regexp.MustCompile(`(?m)^\| (?:([DSFLRHYB]\d+) \| )?(.+) \| ([^|\n]*) \|$`)
	document := testkit.ReadFile(t, "../../FAULTS.md")
	_, rows, found := strings.Cut(document, "\n## ")
	require.True(t, found)
	quoted := regexp.MustCompile("`([^`]+)`")

	listed := make(map[string]string) // by test: its row
	for _, match := range row.FindAllStringSubmatch(rows, -1) {
		number, tests := match[1], quoted.FindAllStringSubmatch(match[3], -1)
		if strings.HasPrefix(match[0], "| # |") || strings.HasPrefix(match[0], "| fault |") {
			continue
		}
		assert.NotEmpty(t, tests, "%s has no test", match[0])
		for _, test := range tests {
			name := test[1]
			if other := faultNumber(name); other == number || listed[name] == "" {
				listed[name] = number // a test may also serve other rows
			}
		}
	}
	require.Greater(t, len(listed), 150, "the table was not understood")

	tested := make(map[string]bool)
	for _, rows := range faultRows {
		for name := range rows {
			assert.False(t, tested[name], "two rows %s", name)
			tested[name] = true
		}
	}

	t.Run("lists every row of TestFault in its place", func(t *testing.T) {
		for name := range tested {
			number, found := listed[name]
			assert.True(t, found, "FAULTS.md does not list `%s`", name)
			if found {
				assert.Equal(t, faultNumber(name), number, "`%s` is listed elsewhere", name)
			}
		}
	})

	t.Run("names only tests that exist", func(t *testing.T) {
		functions := testFunctions(t)
		steps := testkit.ReadFile(t, "../../.ci/run")
		for name, number := range listed {
			switch step, ci := strings.CutPrefix(name, ".ci/run: "); {
			case ci:
				assert.True(t, strings.Contains(steps, "\n\t"+step+") "), "%s: .ci/run has no step %s", number, step)
			case strings.HasPrefix(name, "Test"), strings.HasPrefix(name, "Fuzz"):
				assert.True(t, functions[name], "%s: there is no %s", number, name)
			case runtime.GOOS == "linux": // elsewhere some are missing
				assert.True(t, tested[name], "%s: TestFault has no row `%s`", number, name)
			}
		}
	})
}

// faultNumber is the number that the name of a row begins with; "" if there is none.
func faultNumber(name string) string {
	return strings.TrimSpace(regexp.MustCompile(`^([DSFLRHYB]\d+ )?`).FindString(name))
}

// testFunctions are the tests and fuzz targets of the packages that have some.
func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	var paths []string
	for _, dir := range []string{"../..", "../../examples/framecat", "../../pool", "../../tcpclienttest", "../interop", "../liveness", "../soak", "../wire", "."} {
		found, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		require.NoError(t, err)
		require.NotEmpty(t, found, dir)
		paths = append(paths, found...)
	}
	functions := make(map[string]bool)
	for _, path := range paths {
		source, err := os.ReadFile(path)
		require.NoError(t, err)
		file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil {
				functions[f.Name.Name] = true
			}
		}
	}
	return functions
}
