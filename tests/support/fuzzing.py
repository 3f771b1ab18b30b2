"""Bad input for every public function: valid calls from the examples, and one argument made bad.

A call is recorded while an example of a docstring runs. Then one argument at a time takes a bad
value. What may happen is an error that names the argument, or a result without a NaN.
"""

import concurrent.futures
import contextlib
import copy
import dataclasses
import doctest
import gzip
import hashlib
import importlib
import inspect
import io
import math
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType
from unittest import mock

import numpy as np
import sweep_examples
import torch
from torch import distributed
from torch.utils._pytree import tree_leaves

import flatminima
from flatminima import datasets
from flatminima.curvature import SymmetricOperator
from study.pages import offered

LIBRARY = Path(flatminima.__file__).parent
NOT_FINITE = "NaN or infinity"
SECONDS = 8
"""Of the processor, longer than any example takes: a call that takes more has accepted a size that
it should refuse."""


class TooLong(BaseException):
    """A call that did not end."""


# --- what is called


def is_record(kind: type) -> bool:
    """Whether a class only holds what it is given."""
    named = issubclass(kind, tuple) and hasattr(kind, "_fields")
    return named or (dataclasses.is_dataclass(kind) and not hasattr(kind, "__post_init__"))


@cache
def public_callables() -> dict[str, object]:
    """Full name -> function, of all functions, constructors and methods the library offers."""
    found = {}
    for module in offered.modules():
        if not module.startswith("flatminima"):
            continue
        for member in offered.offers(module).values():
            name = offered.identity(member)
            if inspect.isfunction(member):
                found[name] = member
            elif inspect.isclass(member) and name.startswith("flatminima"):
                found.update(_of_class(name, member))
    return {name: f for name, f in sorted(found.items()) if arguments_of(f)}


def arguments_of(function: object) -> list[str]:
    """The names of what it is given."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def _of_class(name: str, kind: type) -> Iterator[tuple[str, object]]:
    own = kind.__init__
    if inspect.isfunction(own) and not is_record(kind) and not issubclass(kind, Exception):
        yield name, own
    for method, member in inspect.getmembers(kind, callable):
        home = getattr(inspect.unwrap(member), "__module__", None) or ""
        if not method.startswith("_") and home.startswith("flatminima"):
            yield f"{name}.{method}", getattr(member, "__func__", member)


def code_of(function: object) -> CodeType:
    return inspect.unwrap(function).__code__


# --- a valid call of it


@cache
def recorded(docstring: str, module: str) -> dict[CodeType, dict[str, object]]:
    """Code -> arguments of the first call of each public function while an example runs."""
    wanted = {code_of(function) for function in public_callables().values()}
    calls: dict[CodeType, dict[str, object]] = {}

    def watch(frame, event, _):
        code = frame.f_code
        if event != "call" or code not in wanted or code in calls:
            return
        given = dict(frame.f_locals)
        # The constructor of a base class, called by that of its heir, makes no object of its own.
        if code.co_name != "__init__" or code_of(type(given["self"]).__init__) is code:
            calls[code] = duplicate(given)

    globs = dict(vars(importlib.import_module(module)))
    test = doctest.DocTestParser().get_doctest(docstring, globs, module, None, 0)
    runner = doctest.DocTestRunner(verbose=False)
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            # A function that an example defines goes on finding what it needs.
            runner.run(test, out=lambda _: None, clear_globs=False)
    finally:
        sys.setprofile(before)
    return calls


def duplicate(arguments: dict[str, object]) -> dict[str, object]:
    """Copies that a call may change; what cannot be copied is shared."""
    # An operator knows the very tensors it belongs to: what it is asked does not change it.
    # So does a function of some tensors.
    memo = {id(v): v for v in arguments.values() if isinstance(v, SymmetricOperator)}
    if any(inspect.isfunction(value) for value in arguments.values()):
        leaves = tree_leaves(list(arguments.values()))
        memo |= {id(v): v for v in leaves if torch.is_tensor(v) and v.requires_grad}
    try:
        return copy.deepcopy(arguments, dict(memo))
    except Exception:
        pass
    copies = {}
    for name, value in arguments.items():
        try:
            copies[name] = copy.deepcopy(value, dict(memo))
        except Exception:
            copies[name] = value
    return copies


def docstrings(name: str) -> Iterator[tuple[str, str]]:
    """The texts whose examples may call it, each with its module: its own, then its module's."""
    function = public_callables()[name]
    module = importlib.import_module(inspect.unwrap(function).__module__)
    if function.__name__ == "__init__" or name.count(".") > module.__name__.count(".") + 1:
        owner = name.removeprefix(module.__name__ + ".").split(".")[0]
        owner = getattr(module, owner, None)
        texts = [function.__doc__, getattr(owner, "__doc__", None)]
    else:
        texts = [function.__doc__]
    finder = doctest.DocTestFinder()
    tests = finder.find(module)
    texts += [test.docstring for test in tests if test.examples]
    for text in texts:
        if text and ">>>" in text:
            yield text, module.__name__


def valid_call(name: str) -> dict[str, object] | None:
    """Arguments with which it can be called, None if the examples do not tell.

    A method without an example of its own takes the arguments of the others by their names.
    """
    if name in PREPARED:
        return PREPARED[name]()
    function = public_callables()[name]
    code, known = code_of(function), {}
    parameters = inspect.signature(function).parameters
    owner = name.rpartition(".")[0]
    siblings = {
        code_of(f): n
        for n, f in public_callables().items()
        if n.rpartition(".")[0] == owner and f.__name__ != "__init__"
    }
    for text, module in docstrings(name):
        calls = recorded(text, module)
        if code in calls:
            return calls[code]
        if "self" not in parameters:
            continue
        for other in calls.keys() & siblings.keys():
            if "self" not in known or len(calls[other].keys() - known.keys()):
                known = calls[other] | known if "self" in calls[other] else known
    for parameter in parameters.values():
        if parameter.name in known:
            continue
        if parameter.default is parameter.empty:
            return None
        known[parameter.name] = parameter.default
    return {key: known[key] for key in parameters}


def _sweep() -> dict[str, object]:
    """The example of `sweep.run` types its function in; this one is in a file, on a thread."""
    call = {"function": sweep_examples.twice, "configs": [{"number": n} for n in range(3)]}
    call |= {"folder": "runs", "depends_on": ["flatminima.sweep"], "workers": 2, "time_limit": 60.0}
    thread = concurrent.futures.ThreadPoolExecutor(1)
    return call | {"executor": thread, "retry_failed": False, "progress": False}


def _fashion() -> dict[str, object]:
    return {"folder": Path.cwd() / "official", "part": "train"}


PREPARED = {
    "flatminima.sweep.work.run": _sweep,
    "flatminima.datasets.read_fashion_mnist": _fashion,
}
"""Name -> a valid call of what no example calls, since it would need the network, or a file."""


@contextlib.contextmanager
def surroundings(name: str) -> Iterator[None]:
    """What a call needs around it, in a folder of its own: a group of processes, or files."""
    with contextlib.ExitStack() as stack:
        if name.endswith("DistributedOperator"):
            store = f"file://{Path.cwd() / 'store'}"
            distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
            stack.callback(distributed.destroy_process_group)
        if name in PREPARED:
            known = {}
            Path("official").mkdir()
            for kind, shape in (("images-idx3", (2, 28, 28)), ("labels-idx1", (2,))):
                sizes = b"".join(size.to_bytes(4, "big") for size in shape)
                content = bytes((0, 0, 8, len(shape))) + sizes + bytes(int(np.prod(shape)))
                file = f"train-{kind}-ubyte.gz"
                Path("official", file).write_bytes(gzip.compress(content))
                known[file] = "", hashlib.sha256(content).hexdigest()
            stack.enter_context(mock.patch.object(datasets, "_FASHION_SHA256", known))
        yield


def call(name: str, arguments: dict[str, object]) -> object:
    """Call it with arguments by name, * and ** among them; a constructor gives the object."""
    function = public_callables()[name]
    positional, named = [], {}
    for parameter in inspect.signature(function).parameters.values():
        value = arguments[parameter.name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += value
        elif parameter.kind is parameter.VAR_KEYWORD:
            named |= value
        elif parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = value
        else:
            positional.append(value)
    if function.__name__ == "__init__":
        kind = type(positional[0])
        return kind(*positional[1:], **named)
    result = function(*positional, **named)
    return list(_first(result)) if inspect.isgenerator(result) else result


def _first(generator: Iterator) -> Iterator:
    for _, item in zip(range(3), generator, strict=False):
        yield item


# --- bad values


class Thing:
    """An object that is nothing that any function knows."""

    def __repr__(self) -> str:
        return "a thing"


def bad_values(valid: object) -> dict[str, object]:
    """Description -> value to put in the place of a valid one."""
    values = {
        "None": None,
        "text": "text",
        "empty text": "",
        "bytes": b"bytes",
        "nan": math.nan,
        "inf": math.inf,
        "-inf": -math.inf,
        "-1": -1,
        "0": 0,
        "0.5": 0.5,
        "1e308": 1e308,
        "5e-324": 5e-324,
        "10**400": 10**400,
        "10**5000": 10**5000,
        "2**62": 2**62,
        "True": True,
        "1j": 1j,
        "[]": [],
        "[nan]": [math.nan],
        "empty array": np.array([]),
        "array of text": np.array(["a"]),
        "array of objects": np.array([Thing(), None], dtype=object),
        "ragged": [[1.0], [1.0, 2.0]],
        "dict": {},
        "dict of text": {"a": 1},
        "thing": Thing(),
    }
    as_array = _array(valid)
    if as_array is None:
        return values
    values |= {
        "complex": as_array * (1 + 1j),
        "an axis more": as_array[None],
        "no row": as_array[:0] if as_array.ndim else np.zeros(0),
        "a row more": np.concatenate([as_array, as_array[:1]]) if as_array.ndim else as_array,
        "all 1e308": np.full_like(as_array, 1e308, dtype=float),
        "all 1e200": np.full_like(as_array, 1e200, dtype=float),
        "all nan": np.full_like(as_array, np.nan, dtype=float),
        "as text": as_array.astype(str),
        "as objects": as_array.astype(object),
        "as float32": as_array.astype(np.float32),
        "as bool": as_array.astype(bool),
    }
    if as_array.ndim:
        values["an axis fewer"] = as_array[0]
        values["the last column left out"] = as_array[..., :-1]
    if isinstance(valid, torch.Tensor):
        # The same faults as tensors: what expects one must not depend on its being refused.
        numeric = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
        for label, value in numeric.items():
            with contextlib.suppress(TypeError):
                values[f"tensor, {label}"] = torch.from_numpy(np.array(value))
        values["as array"] = as_array
    else:
        with contextlib.suppress(TypeError):
            values["as tensor"] = torch.from_numpy(as_array)
    return values


def _array(value: object) -> np.ndarray | None:
    """The numbers of a valid argument, None if it is something else."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, bool | str | bytes | dict) or value is None:
        return None
    try:
        array = np.array(value)
    except Exception:
        return None
    return array if array.dtype.kind in "iuf" else None


def spots(arguments: dict[str, object], name: str) -> Iterator[tuple[str, object]]:
    """The arguments that may be made bad, those of ** among them: (name or **name, value)."""
    for parameter in inspect.signature(public_callables()[name]).parameters.values():
        value = arguments[parameter.name]
        if parameter.name == "self" or parameter.name == "cls":
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            for key, entry in value.items():
                yield f"**{parameter.name}.{key}", entry
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            yield parameter.name, value


def changed(arguments: dict[str, object], spot: str, value: object) -> dict[str, object]:
    """Copies of the arguments with another value in one place."""
    if spot.startswith("**"):
        holder, key = spot[2:].split(".")
        return duplicate(arguments) | {holder: duplicate(arguments[holder]) | {key: value}}
    return duplicate({k: v for k, v in arguments.items() if k != spot}) | {spot: value}


# --- what came of it


def has_nan(result: object, depth: int = 0) -> bool:
    """Whether there is a NaN or an infinity in a result or a part of it."""
    if isinstance(result, torch.Tensor):
        result = result.detach()
        return bool((~torch.isfinite(result)).any()) if result.numel() else False
    if isinstance(result, np.ndarray | np.generic):
        array = np.asarray(result)
        return array.dtype.kind in "fc" and bool((~np.isfinite(array)).any())
    if isinstance(result, float | complex):
        return not np.isfinite(result)
    if depth > 4:
        return False
    if isinstance(result, dict):
        return any(has_nan(part, depth + 1) for part in result.values())
    if isinstance(result, list | tuple | set):
        return any(has_nan(part, depth + 1) for part in result)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return any(has_nan(v, depth + 1) for v in vars(result).values())
    return False


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooLong in code that takes more of the processor, however busy the machine is."""

    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def outcome(name: str, arguments: dict[str, object], spot: str, value: object) -> str:
    """What is wrong with the answer to a call with one bad argument, "" if nothing is."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=np.exceptions.ComplexWarning)
        warnings.filterwarnings("error", message="Casting complex")
        warnings.filterwarnings("error", category=RuntimeWarning, module="flatminima")
        try:
            with time_limit(SECONDS):
                result = call(name, changed(arguments, spot, value))
        except TooLong:
            return f"ran for more than {SECONDS} s"
        except Exception as error:
            return fault_of(error, spot)
    if is_complex(value):
        return "took a complex number"
    return NOT_FINITE if has_nan(result) else ""


def is_complex(value: object) -> bool:
    array = isinstance(value, np.ndarray) and np.iscomplexobj(value)
    return isinstance(value, complex) or array or (torch.is_tensor(value) and value.is_complex())


def fault_of(error: Exception, spot: str) -> str:
    """What is wrong with an error, "" if it is the library's and names the argument.

    Somebody's own model or loss may raise what it likes, if a note of ours names the argument.
    """
    named = re.compile(rf"\b{re.escape(spot.rpartition('.')[2])}\b")
    message = str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    if any(map(named.search, getattr(error, "__notes__", ()))):
        return ""
    if not isinstance(error, ValueError | TypeError):
        return f"{type(error).__name__}: {message[:200]}"
    if not named.search(message):
        return f"does not name it: {type(error).__name__}: {message[:200]}"
    if not Path(last.filename).is_relative_to(LIBRARY):
        return f"not the library's: {type(error).__name__}: {message[:200]}"
    return "" if len(message) < 1000 else f"{len(message)} characters"
