"""Measure the structure of the package against limits: `python scripts/structure.py` (part of `make check`).

- lines: of all sources;
- docstrings: fraction of the lines that are docstrings;
- generate reaches: files that the job `generate` imports, transitively; imports inside functions count, those under
  TYPE_CHECKING do not;
- longest function: lines without its docstring;
- underscore modules at the root of the package, and import cycles: none.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "mimicmotion"
START = "mimicmotion.generate.job"
LIMITS = {
    "lines": 40_200,
    "generate reaches": 75,
    "longest function": 60,
    "underscore modules": 0,
    "import cycles": 0,
}
LEAST = {"docstrings": 0.17}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path) -> str:
    """Dotted name of a file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield all statements, including those in functions, but not those that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield other
                yield from statements(other)
            continue
        if isinstance(node, ast.stmt):
            yield node
        yield from statements(node)


def imports(name: str, path: Path, tree: ast.AST, modules: dict[str, Path]) -> set[str]:
    """Modules of the package that a module imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in statements(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            inside = {f"{base}.{alias.name}" for alias in node.names}
            found |= (inside & modules.keys()) | ({base} if inside - modules.keys() else set())
    return {m for m in found if m in modules and m != name}


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """All modules that a module imports, directly or not, including their parent packages."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        parent = name.rpartition(".")[0]
        waiting += [*graph[name], *([parent] if parent in graph else [])]
    return found


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other in a cycle (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(set(stack[at:]))
            del stack[at:]

    sys.setrecursionlimit(10_000)
    for name in graph:
        if name not in index:
            visit(name)
    return found


def docstring(node: ast.AST) -> ast.expr | None:
    """The docstring of a module, class or function."""
    body = getattr(node, "body", [])
    first = body[0] if body else None
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return first.value if text and isinstance(first, ast.Expr) else None


def span(node: ast.AST | None) -> int:
    """Number of lines of a node."""
    return 0 if node is None else node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]


def measure() -> tuple[dict[str, float], list[str]]:
    """Measure the numbers; also returns a line for each thing to look at."""
    modules = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
    texts = {name: path.read_text(encoding="utf-8") for name, path in modules.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    lines = sum(text.count("\n") for text in texts.values())
    documented = sum(
        span(docstring(node))
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    )
    functions = sorted(
        (
            (span(node) - span(docstring(node)), f"{name}.{node.name}")
            for name, tree in trees.items()
            for node in ast.walk(tree)
            if isinstance(node, Function)
        ),
        reverse=True,
    )
    graph = {name: imports(name, modules[name], tree, modules) for name, tree in trees.items()}
    circles = cycles(graph)
    private = [name for name in modules if name.count(".") == 1 and name.split(".")[1].startswith("_")]
    private = [name for name in private if name != "mimicmotion.__main__"]
    numbers: dict[str, float] = {
        "files": len(modules),
        "lines": lines,
        "docstrings": round(documented / lines, 3),
        "generate reaches": len(reached(START, graph)),
        "longest function": functions[0][0],
        "underscore modules": len(private),
        "import cycles": len(circles),
    }
    notes = [f"{length} lines: {name}" for length, name in functions[:3]]
    notes += [f"underscore: {name}" for name in private]
    notes += [f"cycle: {', '.join(sorted(circle))}" for circle in circles]
    return numbers, notes


def main() -> int:
    """Print the numbers; returns 1 if a limit is exceeded."""
    numbers, notes = measure()
    good = True
    for name, value in numbers.items():
        limit = LIMITS.get(name, LEAST.get(name))
        held = value <= LIMITS[name] if name in LIMITS else value >= LEAST.get(name, value)
        good = good and held
        said = "" if limit is None else f"  ({'at most' if name in LIMITS else 'at least'} {limit})"
        sys.stdout.write(f"{name:20} {value:>8}{said}{'' if held else '  TOO FAR'}\n")
    for note in notes:
        sys.stdout.write(f"  {note}\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
