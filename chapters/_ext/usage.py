"""Which chapter uses which function of the library, found by reading the cells of the chapters."""

import ast
import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import flatminima

PACKAGE = flatminima.__name__


def public_modules() -> list[str]:
    """The names of the modules of the library that readers may use, without the package's name."""
    names = (module.name for module in pkgutil.iter_modules(flatminima.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def public_members(module: str) -> dict[str, object]:
    """The functions and classes that a module offers: those of ``__all__``, or those made in it.

    What it only passes on from another public module belongs to that one.
    """
    loaded = importlib.import_module(f"{PACKAGE}.{module}")
    public = {f"{PACKAGE}.{name}" for name in public_modules()} - {loaded.__name__}
    names = getattr(loaded, "__all__", [name for name in vars(loaded) if not name.startswith("_")])
    found = {}
    for name in names:
        member = getattr(loaded, name)
        if not (inspect.isclass(member) or inspect.isfunction(member)):
            continue
        own = member.__module__ == loaded.__name__
        if own or (hasattr(loaded, "__all__") and member.__module__ not in public):
            found[name] = member
    return found


def identity(member: object) -> str | None:
    """The full name of a function or class where it is defined, None of anything else."""
    if inspect.isfunction(member) or inspect.isclass(member):
        return f"{member.__module__}.{member.__qualname__}"
    return None


def names_in(source: str) -> set[str]:
    """The dotted names below the package that a piece of code mentions, imports followed."""
    aliases: dict[str, str] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for name in node.names:
                aliases[name.asname or name.name] = f"{node.module}.{name.name}"
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == PACKAGE:
                    aliases[name.asname or PACKAGE] = name.name if name.asname else PACKAGE
    return set(_mentioned(tree, aliases))


def _mentioned(tree: ast.AST, aliases: dict[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in aliases:
            yield ".".join([aliases[node.id], *parts])


def resolved(name: str) -> str | None:
    """The identity of what a dotted name stands for; of a method, that of its class."""
    value: object = flatminima
    for part in name.split(".")[1:]:
        if not isinstance(value, ModuleType):
            break
        try:
            value = getattr(value, part)
        except AttributeError:
            return None
    return identity(value)


def code_of(notebook: Path) -> str:
    """The code of a notebook in one piece, without the lines that only IPython understands."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code").split("\n")
    return "\n".join("" if line.lstrip()[:1] in ("%", "!") else line for line in lines)


def used_in(chapters: Path, order: list[str]) -> dict[str, list[str]]:
    """Identity of each function and class -> the chapters that use it, in the given order."""
    found: dict[str, list[str]] = {}
    for document in order:
        path = chapters / f"{document}.ipynb"
        if not path.exists():
            continue
        for member in sorted({resolved(n) for n in names_in(code_of(path))} - {None}):
            found.setdefault(member, []).append(document)
    return found
