"""Checkpoints of a training run: one file, checked when it is read, never half written."""

import functools
import hashlib
import inspect
import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from flatminima._files import write_atomically
from flatminima._validation import shown

__all__ = [
    "CorruptCheckpointError",
]

MAGIC = b"flatminima checkpoint 2\n"


RANDOM = "state of the generator"


class CorruptCheckpointError(ValueError):
    """A checkpoint is not what its checksum says. It is left as it is, for its owner to see."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings and lists and dictionaries of them.

    With it goes the state of PyTorch's own generator, from which dropout draws, on the CPU.

    Raises:
        OSError: if it cannot be written, or not so that it could be read.
    """
    buffer = io.BytesIO()
    torch.save(plain(content) | {RANDOM: torch.get_rng_state()}, buffer)
    raw = buffer.getvalue()
    write_atomically(path, MAGIC + hashlib.sha256(raw).digest() + raw)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU, and set the generator as it was.

    Raises:
        CorruptCheckpointError: for a file that is truncated, altered, or no checkpoint.
    """
    raw = path.read_bytes()
    head, digest = len(MAGIC), len(MAGIC) + 32
    if raw[:head] != MAGIC:
        raise CorruptCheckpointError(f"{path} is not a checkpoint of this library")
    if hashlib.sha256(raw[digest:]).digest() != raw[head:digest]:
        raise CorruptCheckpointError(
            f"{path} is truncated or altered: its SHA-256 does not match. It was left in place; "
            "remove it to start the run from the beginning"
        )
    content = torch.load(io.BytesIO(raw[digest:]), map_location="cpu", weights_only=True)
    torch.set_rng_state(content.pop(RANDOM))
    return content


def plain(value: object) -> object:
    """Nested dictionaries, lists and tuples with NumPy's numbers as Python's, which can be read.

    OSError for what could be written, and not be read back.
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, Tensor) or type(value) in (
        NoneType,
        bool,
        int,
        float,
        complex,
        str,
        bytes,
    ):
        return value
    raise OSError(f"a state must hold tensors, numbers and text only, got {shown(value)}")


def fingerprint(value: object) -> str:
    """Hash of what decides a run, by content: tensors and plain values, functions by their source
    and what they enclose or name, modules by their layers, attributes and states, other objects by
    their ``settings``, or else their public attributes, without those that a ``state_dict`` of
    theirs names.
    """
    digest = hashlib.sha256()
    _feed(digest, value, {})
    return digest.hexdigest()


def _feed(digest: Any, value: object, seen: dict[int, object]) -> None:
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        digest.update(f"tensor {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes())
        return
    if isinstance(value, float):
        digest.update(b"float" + struct.pack("<d", value))
        return
    if value is None or isinstance(value, bool | int | str | bytes | np.generic | type):
        digest.update(f"{type(value).__name__} {value!r}".encode())
        return
    parts = _parts(value) if id(value) not in seen else []
    seen[id(value)] = value  # which keeps it, so that no other gets its number
    digest.update(f"{type(value).__qualname__} {len(parts)}".encode())
    for part in parts:
        _feed(digest, part, seen)


def _parts(value: object) -> list[object]:
    """What an object consists of."""
    if isinstance(value, dict):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(map(fingerprint, value))
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, torch.Generator):
        return [value.get_state()]
    if isinstance(value, nn.Module):
        layers = [part for name, m in value.named_modules() for part in (name, *_layer(m))]
        # Of parameters that layers share, the first name alone is listed.
        trained = [(name, p.requires_grad) for name, p in value.named_parameters()]
        drops = any(isinstance(m, _DropoutNd) and m.training for m in value.modules())
        draws = torch.get_rng_state() if drops else None
        return [*layers, trained, value.state_dict(), dict(value.named_buffers()), draws]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if inspect.isfunction(value):
        return _of_function(value)
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if hasattr(value, "settings"):
        return [value.settings]
    name, own = getattr(value, "__qualname__", None), getattr(value, "__dict__", None)
    if name is None and (own is None or isinstance(value, Enum)):
        return _reduced(value)
    state = value.state_dict() if hasattr(value, "state_dict") else {}
    return [name, {key: own[key] for key in own or () if key[0] != "_" and key not in state}]


def _reduced(value: object) -> list[object]:
    """What an object without attributes, a path, a range or a generator of NumPy, is made of."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # a lock or a reference that says nothing of itself
        return []
    if isinstance(reduced, str):
        return [reduced]
    return [list(part) if isinstance(part, Iterator) else part for part in reduced]


def _layer(module: nn.Module) -> tuple[object, ...]:
    """The class of a layer, its options and attributes, and, unless it is PyTorch's, its code."""
    inherited = vars(nn.Module()).keys() - {"training"}
    attributes = {name: part for name, part in vars(module).items() if name not in inherited}
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    kinds = [kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.")]
    code = [item for kind in kinds for item in vars(kind).values() if inspect.isfunction(item)]
    return type(module).__qualname__, module.extra_repr(), attributes, hooks, code


def _of_function(function: FunctionType) -> list[object]:
    """Its source, defaults, what it encloses, and what it names among its module's own."""
    named = [
        item
        for name in function.__code__.co_names
        for item in [function.__globals__.get(name)]
        if isinstance(item, bool | int | float | str | Tensor | np.ndarray)
        or (inspect.isfunction(item) and item.__module__ == function.__module__)
    ]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return [_source(function), function.__defaults__, function.__kwdefaults__, cells, named]


def _source(function: FunctionType) -> object:
    """The source of a function; its compiled code where a line may hold several, or none is."""
    with suppress(OSError, TypeError):
        if function.__name__ != "<lambda>":
            return inspect.getsource(function)
    return _compiled(function.__code__)


def _compiled(code: CodeType) -> list[object]:
    inner = [_compiled(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return [code.co_code, code.co_names, inner]
