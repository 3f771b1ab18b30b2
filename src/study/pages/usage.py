"""Which chapter uses which function of the library, found by reading the cells of the chapters."""

import ast
import importlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from study.pages import notebooks
from study.pages.offered import PACKAGES, identity


def names_in(source: str) -> set[str]:
    """The dotted names below the packages that a piece of code mentions, imports followed."""
    aliases: dict[str, str] = {}
    own = {package.__name__ for package in PACKAGES}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in own:
            for name in node.names:
                aliases[name.asname or name.name] = f"{node.module}.{name.name}"
        elif isinstance(node, ast.Import):
            for name in node.names:
                package = name.name.split(".")[0]
                if package in own:
                    aliases[name.asname or package] = name.name if name.asname else package
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
    parts = name.split(".")
    value: object = importlib.import_module(parts[0])
    for at, part in enumerate(parts[1:], 1):
        if not isinstance(value, ModuleType):
            break
        with suppress(ModuleNotFoundError):
            importlib.import_module(".".join(parts[: at + 1]))
        try:
            value = getattr(value, part)
        except AttributeError:
            return None
    return identity(value)


def used_in(chapters: Path, order: list[str]) -> dict[str, list[str]]:
    """Identity of each function and class -> the chapters that use it, in the given order."""
    found: dict[str, list[str]] = {}
    for document in order:
        path = chapters / f"{document}.ipynb"
        names = names_in(notebooks.program(path)) if path.exists() else ()
        for member in sorted({resolved(name) for name in names} - {None}):
            found.setdefault(member, []).append(document)
    return found
