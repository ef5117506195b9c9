"""Reads names from the source of modules, without importing them."""

import ast
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

_MOST_FILES = 500


def module_files(module: str, path: Sequence[str]) -> list[tuple[str, Path]]:
    """Return a module, or a package's modules, with their files; at most 500.

    Searches `path`. The list is empty if the module isn't found or is not Python source.
    """
    parts = module.split(".")
    inner: Sequence[str] | None = path
    origin: str | None = None
    for length in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:length]), inner)
        if spec is None:
            return []
        inner, origin = spec.submodule_search_locations, spec.origin
    if inner is None:
        return [(module, Path(origin))] if origin and origin.endswith(".py") else []
    return [
        (_module_name(module, root, file), file)
        for root in map(Path, inner)
        for file in sorted(root.rglob("*.py"))[:_MOST_FILES]
    ]


def defined_names(file: Path) -> frozenset[str] | None:
    """Return the names that a module's source defines; None if its source doesn't tell.

    That is the case if it can't be read, has `import *` or defines `__getattr__`.
    """
    tree = _tree(file)
    if tree is None:
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
    return None if names & {"*", "__getattr__"} else frozenset(names)


def offers(file: Path, name: str) -> bool:
    """Whether a function in the file has the decorator `@celeriac.agent(name)`."""
    tree = _tree(file)
    return tree is not None and any(
        _is_offer(each, name)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for each in node.decorator_list
    )


def _tree(file: Path) -> ast.Module | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return _parsed(file, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=16)
def _parsed(file: Path, _changed: int, _size: int) -> ast.Module | None:
    """Parse a file; cached, because a document may name many of its functions."""
    try:
        return ast.parse(file.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _is_offer(node: ast.expr, name: str) -> bool:
    if not isinstance(node, ast.Call) or not node.args:
        return False
    called = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
    given = node.args[0]
    return called == "agent" and isinstance(given, ast.Constant) and given.value == name


def _module_name(package: str, root: Path, file: Path) -> str:
    parts: Iterator[str] = iter(file.relative_to(root).with_suffix("").parts)
    return ".".join([package, *(part for part in parts if part != "__init__")])
