package tcpclient_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" { // a benchmark has the collector that a user has
		debug.SetGCPercent(400) // a fifth of the time goes there otherwise; tests of memory collect for themselves
	}
	testkit.Main(m, nil)
}

// What is said about the module, tested like what it does.

const module = "github.com/seed-d0aa0aa7/tcpclient"

func TestREADME(t *testing.T) {
	readme := testkit.ReadFile(t, "README.md")

	t.Run("shows examples/quickstart as it is", func(t *testing.T) {
		_, program, found := strings.Cut(readme, "```go\n")
		require.True(t, found, "README.md shows no program")
		program, _, _ = strings.Cut(program, "```")
		require.Equal(t, testkit.ReadFile(t, "examples/quickstart/main.go"), program)
		require.LessOrEqual(t, strings.Count(program, "\n"), 25, "the program should be short")
	})

	t.Run("shows examples/quickstart/yours as it is, which calls a server", func(t *testing.T) {
		require.Contains(t, readme, "```go\n"+testkit.ReadFile(t, "examples/quickstart/yours/main.go")+"```\n")
		testkit.SkipUnderWine(t, "go command")
		server := tcpclienttest.NewServer(tcpclient.Lines{}, tcpclienttest.Echo)
		defer server.Close()
		program := exec.CommandContext(t.Context(), "go", "run", "./examples/quickstart/yours", "-addr", server.Addr)
		program.Stderr = os.Stderr // where the go command may say something, too
		out, err := program.Output()
		require.NoError(t, err)
		require.Equal(t, "hello\n", string(out))
	})

	t.Run("has the programs and the commands in Chinese as in English", func(t *testing.T) {
		fences := regexp.MustCompile("(?s)```(?:go|sh)\n.*?```")
		chinese := testkit.ReadFile(t, "README.zh-CN.md")
		require.Equal(t, fences.FindAllString(readme, 3), fences.FindAllString(chinese, -1))
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(chinese, -1) {
			if !strings.Contains(link[1], "://") {
				require.FileExists(t, link[1])
			}
		}
	})

	t.Run("links to files and headings that exist", func(t *testing.T) {
		headings := make(map[string]bool)
		for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(readme, -1) {
			headings[anchor(heading[1])] = true
		}
		links := regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(readme, -1)
		require.NotEmpty(t, links)
		for _, link := range links {
			file, fragment, _ := strings.Cut(link[1], "#")
			switch {
			case strings.Contains(file, "://"):
			case file != "":
				assert.FileExists(t, file)
			default:
				assert.True(t, headings[fragment], "no heading for #%s", fragment)
			}
		}
	})

	t.Run("lists all examples", func(t *testing.T) {
		entries, err := os.ReadDir("examples")
		require.NoError(t, err)
		require.NotEmpty(t, entries)
		for _, entry := range entries {
			path := "examples/" + entry.Name() + "/main.go"
			assert.True(t, strings.Contains(readme, path), "README.md does not mention %s", path)
		}
	})
}

func TestImports(t *testing.T) { // P11
	imports := testkit.GoList(t, "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".", "./pool", "./tcpclienttest", "./examples/...")
	require.Contains(t, imports, module)
	for _, path := range imports {
		if path != module && !strings.HasPrefix(path, module+"/") {
			t.Errorf("users would import %s; only the standard library is allowed", path)
		}
	}
}

func TestDocumentation(t *testing.T) {
	for _, dir := range []string{".", "pool", "tcpclienttest"} {
		for _, name := range undocumented(t, dir) {
			t.Errorf("undocumented: %s", name)
		}
	}
}

// undocumented lists the exported names of a package that have no comment: functions,
// methods, types, fields, constants and variables.
func undocumented(t *testing.T, dir string) (names []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	fset := token.NewFileSet()
	need := func(name *ast.Ident, comments ...*ast.CommentGroup) {
		if !name.IsExported() {
			return
		}
		for _, comment := range comments {
			if comment.Text() != "" {
				return
			}
		}
		names = append(names, fmt.Sprintf("%s (%s)", name.Name, fset.Position(name.Pos())))
	}
	fields := func(list *ast.FieldList) {
		for _, field := range list.List {
			for _, name := range field.Names {
				need(name, field.Doc, field.Comment)
			}
		}
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		require.NoError(t, err)
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Recv == nil || receiver(decl).IsExported() {
					need(decl.Name, decl.Doc)
				}
			case *ast.GenDecl:
				group := decl.Doc
				if decl.Lparen.IsValid() {
					group = nil // what is said of a group is said of none of its names
				}
				for _, spec := range decl.Specs {
					switch spec := spec.(type) {
					case *ast.ValueSpec:
						for _, name := range spec.Names {
							need(name, group, spec.Doc, spec.Comment)
						}
					case *ast.TypeSpec:
						need(spec.Name, group, spec.Doc)
						if !spec.Name.IsExported() {
							continue
						}
						switch typ := spec.Type.(type) {
						case *ast.StructType:
							fields(typ.Fields)
						case *ast.InterfaceType:
							fields(typ.Methods)
						}
					}
				}
			}
		}
	}
	return names
}

// receiver returns the name of the type that a method belongs to.
func receiver(method *ast.FuncDecl) *ast.Ident {
	typ := method.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if generic, ok := typ.(*ast.IndexExpr); ok {
		typ = generic.X
	}
	return typ.(*ast.Ident)
}

// anchor returns what a link to a heading is made of.
func anchor(heading string) string {
	heading = strings.ToLower(strings.TrimSpace(heading))
	heading = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(heading, "")
	return strings.ReplaceAll(heading, " ", "-")
}
