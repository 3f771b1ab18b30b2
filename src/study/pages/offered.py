"""What the library and the study offer their readers: the modules, and the names in them.

A name is offered by the ``__all__`` of a module. The package that the module is part of may offer
it too, and then the package is where readers find it; the front, ``flatminima``, repeats names of
the rooms behind it and counts for none of them.
"""

import ast
import importlib
import inspect
import itertools
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType

import flatminima
import study

PACKAGES = (flatminima, study)
LONGEST_VALUE = 80
"""Characters of a value that its description can show."""


@cache
def modules() -> tuple[str, ...]:
    """The full names of all modules but those that are run, and those of the pages themselves."""
    found = [
        module.name
        for package in PACKAGES
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return tuple(
        sorted(n for n in found if not n.endswith("__main__") and not n.startswith("study.pages"))
    )


def offers(module: str) -> dict[str, object]:
    """All that a module offers by its ``__all__``, but for modules, which speak for themselves."""
    loaded = importlib.import_module(module)
    members = {name: getattr(loaded, name) for name in getattr(loaded, "__all__", ())}
    return {name: m for name, m in members.items() if not isinstance(m, ModuleType)}


def public_members(module: str) -> dict[str, object]:
    """What readers find in a module: what it offers and the package that it is part of does not."""
    package = module.rpartition(".")[0]
    above = offers(package) if package not in {p.__name__ for p in PACKAGES} else {}
    return {n: m for n, m in offers(module).items() if n not in above or above[n] is not m}


def public_modules() -> list[str]:
    """The full names of the modules in which readers find something."""
    return [module for module in modules() if public_members(module)]


def identity(member: object) -> str | None:
    """The full name of a function or class where it is defined, None of anything else."""
    if inspect.isfunction(member) or inspect.isclass(member):
        return f"{member.__module__}.{member.__qualname__}"
    return None


def constants(module: str) -> dict[str, str]:
    """The values that readers find in a module -> what is said of each below its definition."""
    named = [name for name, member in public_members(module).items() if not identity(member)]
    parts = [module, *(name for name in modules() if name.startswith(f"{module}."))]
    said: dict[str, str] = {}
    for part in parts:
        said = _said_of_values(Path(importlib.import_module(part).__file__)) | said
    return {name: said.get(name, "") for name in named}


def shown_value(value: object) -> str:
    """A value as code if that is short and the same on every machine, else ""."""
    code = repr(value)
    try:
        plain = ast.literal_eval(code) == value
    except (ValueError, SyntaxError):
        return ""
    return code if plain and len(code) <= LONGEST_VALUE else ""


def _said_of_values(path: Path) -> dict[str, str]:
    """Name -> docstring of each value that a file assigns at its top and describes below."""
    found = {}
    for node, after in itertools.pairwise(ast.parse(path.read_text(encoding="utf-8")).body):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        text = getattr(after.value, "value", None) if isinstance(after, ast.Expr) else None
        if isinstance(text, str):
            names = (target.id for target in targets if isinstance(target, ast.Name))
            found |= dict.fromkeys(names, inspect.cleandoc(text))
    return found
