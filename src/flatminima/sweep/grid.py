"""The key of each run: a hash of the function's name, the config, and the code it depends on."""

import ast
import hashlib
import importlib.util
import inspect
import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from flatminima.sweep.runs import Function, fields_of

__all__ = ["code_version"]


def keyed(
    function: Function, configs: Iterable[object], depends_on: Sequence[str]
) -> dict[str, object]:
    """Name of the file -> config; ValueError for arguments that are not as `run` says."""
    name = getattr(function, "__qualname__", "")
    if not inspect.isfunction(function) or not name.isidentifier():
        raise ValueError(
            "function must be a function defined at the top of a module, so that another "
            f"process can import it; got {function!r}"
        )
    if isinstance(depends_on, str):
        raise ValueError(f"depends_on must be a sequence of names, got the string {depends_on!r}")
    # The source of the function is found through the file: its module may be __main__.
    file = file_of(function)
    source = _source(file) if file else _text_of(function).encode()
    code = [hashlib.sha256(source).hexdigest(), code_version(depends_on)]
    grid: dict[str, object] = {}
    for config in configs:
        description = json.dumps([name, type(config).__qualname__, fields_of(config), code])
        key = hashlib.sha256(description.encode()).hexdigest()[:32]
        if key in grid:
            raise ValueError(f"configs must all differ, got this one twice: {config!r}")
        grid[key] = config
    return grid


def file_of(function: Function) -> Path | None:
    """The file that holds a function; None for one that was typed into a notebook."""
    try:
        file = Path(inspect.getsourcefile(function) or "")
    except TypeError:
        return None
    return file if file.is_file() else None


def code_version(modules: Iterable[str]) -> str:
    """Hash of the source of the named modules; a package stands for all modules in it.

    Raises:
        ValueError: for a module that does not exist or has no source.

    Example:
        >>> code_version(["flatminima.sweep"]) == code_version(["flatminima.sweep.grid"])
        False
    """
    digest = hashlib.sha256()
    for name in sorted(set(modules)):
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not str(spec.origin).endswith(".py"):
            raise ValueError(f"depends_on must name modules with Python source, got {name!r}")
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        paths = sorted(p for f in folders for p in f.rglob("*.py")) or [Path(spec.origin)]
        for path in paths:
            digest.update(f"{name} {path.name}\n".encode() + _source(path))
    return digest.hexdigest()


def _text_of(function: Function) -> str:
    """The text of a notebook's function, and of the functions and classes there that it names."""
    texts: dict[str, str] = {}
    waiting: list[object] = [function]
    while waiting:
        item = waiting.pop()
        try:
            texts[item.__qualname__] = text = inspect.getsource(item)
        except (OSError, TypeError) as error:
            raise ValueError(f"the source of {item!r} is not known: put it into a file") from error
        for node in ast.walk(ast.parse(textwrap.dedent(text))):
            other = function.__globals__.get(getattr(node, "id", None))
            named = inspect.isfunction(other) or inspect.isclass(other)
            if named and other.__module__ == function.__module__:
                waiting += [] if other.__qualname__ in texts else [other]
    return "".join(texts[name] for name in sorted(texts))


def _source(path: Path) -> bytes:
    # A checkout may end its lines in either way.
    return path.read_bytes().replace(b"\r\n", b"\n")
