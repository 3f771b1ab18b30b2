"""Names of a package that are loaded when they are first used (PEP 562)."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def attach(
    package: dict[str, Any], homes: dict[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: its ``globals()``; a name is kept there once it has been loaded.
        homes: name -> the module that defines it; a name that ends its module's is that module.
    """
    own = package["__name__"]

    def __getattr__(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {own!r} has no attribute {name!r}")
        module = import_module(homes[name])
        value = module if homes[name].endswith(f".{name}") else getattr(module, name)
        package[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*package, *homes})

    return __getattr__, __dir__, sorted(homes)
