"""The key of each run: a hash of the function's name, the config, and the code it depends on."""

import ast
import glob
import hashlib
import importlib.util
import inspect
import json
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from flatminima._validation import shown
from flatminima.sweep.runs import Function, fields_of

__all__ = ["code_version"]

LOADED = time.time_ns()
"""When this process began to run sweeps."""
_hashes: dict[Path, tuple[tuple[int, ...], str]] = {}
_first: dict[Path, str] = {}


def keyed(function: Function, configs: Iterable[object], code: str) -> dict[str, object]:
    """Key -> config; ValueError for configs that are not as `run` says."""
    grid: dict[str, object] = {}
    for config in configs:
        name, kind = function.__qualname__, type(config).__qualname__
        try:
            description = json.dumps([name, kind, fields_of(config), code])
        except ValueError as error:
            raise ValueError(f"configs: {error}") from error
        key = hashlib.sha256(description.encode()).hexdigest()[:32]
        if key in grid:
            raise ValueError(f"configs must all differ, got this one twice: {shown(config)}")
        grid[key] = config
    return grid


def code_of(function: Function, depends_on: Sequence[str]) -> str:
    """Hash of the source of a function and of the modules that decide its result.

    Raises:
        ValueError: if one of them is not as `run` says.
    """
    if not inspect.isfunction(function) or not function.__qualname__.isidentifier():
        raise ValueError(
            "function must be a function defined at the top of a module, so that another "
            f"process can import it; got {shown(function)}"
        )
    # The source of the function is found through the file: its module may be __main__.
    own = " ".join(map(_hash, files_of(function)))
    own = own or hashlib.sha256(_text_of(function).encode()).hexdigest()
    return hashlib.sha256(f"{own} {code_version(depends_on)}".encode()).hexdigest()


def edited(function: Function, depends_on: Sequence[str]) -> list[str]:
    """The files of that code that were changed since this process may have imported them.

    What it runs is then not what they say. A file cannot hide a change behind an old date: what
    counts is when the file system last touched it, as this process first looked at it, and what
    was in it then.
    """
    imported = [path for _, name, path in _sources(depends_on) if name in sys.modules]
    found = []
    for path in imported + files_of(function):
        state = path.stat()
        touched = state.st_mtime_ns if sys.platform == "win32" else state.st_ctime_ns
        if _first.setdefault(path, "" if touched > LOADED else _hash(path)) != _hash(path):
            found.append(str(path))
    return found


def files_of(function: Function) -> list[Path]:
    """The file that holds a function, and those of its decorators; none for a notebook's."""
    found = []
    while function is not None:
        with suppress(TypeError):
            found.append(Path(inspect.getsourcefile(function) or ""))
        function = getattr(function, "__wrapped__", None)
    return [file for file in dict.fromkeys(found) if file.is_file()]


def code_version(modules: Iterable[str]) -> str:
    """Hash of the source of the named modules; a package stands for all modules in it.

    Raises:
        ValueError: for a module that does not exist or has no source.

    Example:
        >>> code_version(["flatminima.sweep"]) == code_version(["flatminima.sweep.grid"])
        False
    """
    digest = hashlib.sha256()
    for named, name, path in _sources(modules):
        digest.update(f"{named} {name} {_hash(path)}\n".encode())
    return digest.hexdigest()


def _sources(modules: Iterable[str]) -> Iterator[tuple[str, str, Path]]:
    """For each file of the modules, in order: the module named, the file's own, and the file."""
    names = list(modules) if isinstance(modules, Iterable) else [modules]
    if isinstance(modules, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"modules (depends_on) must be a sequence of names, got {shown(modules)}")
    for named in sorted(set(names)):
        try:
            spec = importlib.util.find_spec(named)
        except Exception:  # of a package that it is in and that cannot be imported, say
            spec = None
        if spec is None or not str(spec.origin).endswith(".py"):
            raise ValueError(f"depends_on must name modules with Python source, got {named!r}")
        if not spec.submodule_search_locations:
            yield named, named, Path(spec.origin)
        for folder in spec.submodule_search_locations or ():
            # Through links too, as an import goes.
            found = glob.iglob(f"{glob.escape(folder)}/**/*.py", recursive=True)
            for path in sorted(map(Path, found)):
                parts = [named, *path.relative_to(folder).with_suffix("").parts]
                yield named, ".".join(parts).removesuffix(".__init__"), path


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


def _hash(path: Path) -> str:
    """Hash of a file's source, read anew when the file has changed."""
    state = path.stat()
    mark = (state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino)
    if _hashes.get(path, ((), ""))[0] != mark:
        # A checkout may end its lines in either way.
        source = path.read_bytes().replace(b"\r\n", b"\n")
        _hashes[path] = mark, hashlib.sha256(source).hexdigest()
    return _hashes[path][1]
