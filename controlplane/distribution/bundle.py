"""The installer, many modules in the wheel, is one file in the folder: a host can hash, read and run that.

Modules follow each other in the order of their imports; their imports of each other are taken out, which works
because no two of them give one name two meanings (checked here).
"""

import ast
import graphlib
from collections.abc import Mapping

HEADER = '''"""Holdfast's installer. Standard library only; made from agent/installer/ by `holdfast dist build`.

python3 install.py --help
"""

import sys

if sys.version_info < (3, 11):
    sys.exit("holdfast: Python 3.11 or newer is needed, and this is " + sys.version.split()[0])

'''


class BundleError(ValueError):
    """The modules cannot become one file, with the reason."""


def bundle(sources: Mapping[str, str], *, package: str, entry: str) -> str:
    """One program out of a package's modules (`sources`: module name -> text); `entry.main()` is what it runs."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    graph = {name: _siblings(tree, package, name) for name, tree in trees.items()}
    for name, needed in graph.items():
        if unknown := sorted(needed - sources.keys()):
            raise BundleError(f"{package}.{name} imports {', '.join(unknown)}, which is not there")
    try:
        order = list(graphlib.TopologicalSorter({name: sorted(graph[name]) for name in sorted(graph)}).static_order())
    except graphlib.CycleError as exc:
        raise BundleError(f"the modules of {package} import each other in a circle: {exc.args[1]}") from exc
    _check_names({name: trees[name] for name in order})
    parts = [HEADER]
    for name in order:
        parts.append(f"# --- {package}.{name} " + "-" * 60 + "\n")
        parts.append(_without_siblings(sources[name], trees[name], package) + "\n\n")
    parts.append('if __name__ == "__main__":\n    raise SystemExit(main())\n')
    if entry not in order or "main" not in _defined(trees[entry]):
        raise BundleError(f"{package}.{entry} has no main()")
    return "".join(parts)


def _siblings(tree: ast.Module, package: str, name: str) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name.startswith(package) for alias in node.names):
            raise BundleError(f"{package}.{name}: say `from {package}.x import y`, line {node.lineno}")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package):
            if any(alias.asname for alias in node.names) or node.module == package:
                raise BundleError(f"{package}.{name}: no module imports and no `as` of siblings, line {node.lineno}")
            found.add((node.module or "").removeprefix(package + "."))
    return found


def _without_siblings(text: str, tree: ast.Module, package: str) -> str:
    gone: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package):
            if node not in tree.body:
                raise BundleError(f"imports of siblings stand at the top of a module, line {node.lineno}")
            gone |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for node in tree.body:
        # `if __name__ == "__main__"` of a module is not the program's.
        if isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
            gone |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = text.splitlines()
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in gone).strip() + "\n"


def _check_names(trees: Mapping[str, ast.Module]) -> None:
    owner: dict[str, str] = {}
    for module, tree in trees.items():
        for name in sorted(_defined(tree)):
            if name in owner:
                raise BundleError(f"{name} is defined in {owner[name]} and in {module}; one file has one of each")
            owner[name] = module


def _defined(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {leaf.id for t in targets for leaf in ast.walk(t) if isinstance(leaf, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found
