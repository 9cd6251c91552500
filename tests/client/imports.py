"""The import graph of the two packages, as the README shows it."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

# Packages of the client that the graph shows as one unit. A folder of the tools is always one unit.
_FOLDERS = {"keylatch.cached", "keylatch.fastapi"}


def import_graph(sources: Path) -> str:
    """Describe the packages in a folder.

    Args:
        sources: The folder of `keylatch` and `keylatch_cli`.

    Returns:
        A line for each module or folder: its name and its imports, without those that another
        import on the line imports, too. Each import has its own line further below.
    """
    files = {_dotted(path.relative_to(sources).with_suffix("").parts): path
             for path in sorted(sources.rglob("*.py"))}  # fmt: skip
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        own = graph.setdefault(_unit(module), set())
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for name in _imports(ast.parse(path.read_text("utf-8")), package):
            found = name if name in files else name.rpartition(".")[0]
            if found in files and _unit(found) != _unit(module):
                own.add(_unit(found))
    order = list(TopologicalSorter(graph).static_order())
    reached: dict[str, set[str]] = {}
    for unit in order:
        reached[unit] = graph[unit].union(*(reached[one] for one in graph[unit]))
    lines = []
    for unit in sorted(order, key=lambda one: (_is_client(one), -_height(one, graph), one)):
        direct = graph[unit].difference(*(reached[one] for one in graph[unit]))
        lines.append(f"{unit:<30} {' '.join(sorted(direct))}".rstrip())
    return "\n".join(lines)


def _is_client(unit: str) -> bool:
    return not unit.startswith("keylatch_cli")


def _height(unit: str, graph: dict[str, set[str]]) -> int:
    return 1 + max((_height(one, graph) for one in graph[unit]), default=0)


def _dotted(parts: tuple[str, ...]) -> str:
    return ".".join(part for part in parts if part != "__init__")


def _unit(module: str) -> str:
    first_two = ".".join(module.split(".")[:2])
    is_folder = first_two in _FOLDERS or not _is_client(module)
    return first_two if is_folder else module


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the imported names, also from functions, but without imports for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = [*(parents if node.level else []), *([node.module] if node.module else [])]
            yield from (".".join([*start, one.name]) for one in node.names)
        elif isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        else:
            yield from _imports(node, package)
