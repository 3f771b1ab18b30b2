"""Checkpoints of a training run: one file, checked when it is read, never half written."""

import functools
import hashlib
import inspect
import io
import struct
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatminima._files import write_atomically

__all__ = [
    "CorruptCheckpointError",
]

MAGIC = b"flatminima checkpoint 1\n"


class CorruptCheckpointError(ValueError):
    """A checkpoint is not what its checksum says. It is left as it is, for its owner to see."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings and lists and dictionaries of them."""
    buffer = io.BytesIO()
    torch.save(plain(content), buffer)
    raw = buffer.getvalue()
    write_atomically(path, MAGIC + hashlib.sha256(raw).digest() + raw)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU.

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
    return torch.load(io.BytesIO(raw[digest:]), map_location="cpu", weights_only=True)


def plain(value: object) -> object:
    """Nested dictionaries, lists and tuples with NumPy's numbers as Python's, which can be read."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def fingerprint(value: object) -> str:
    """Hash of what decides a run, by content: tensors and plain values, functions by their source
    and what they enclose, modules by their layers and states, other objects by their ``settings``,
    or else their public attributes, without those that a ``state_dict`` of theirs names.
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
    if isinstance(value, list | tuple | set):
        return list(value)
    if isinstance(value, np.ndarray):
        return [value.tolist()]
    if isinstance(value, torch.Generator):
        return [value.get_state()]
    if isinstance(value, nn.Module):
        layers = [part for name, m in value.named_modules() for part in (name, *_layer(m))]
        return [*layers, value.state_dict()]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [_source(value), value.__defaults__, value.__kwdefaults__, cells]
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if hasattr(value, "settings"):
        return [value.settings]
    state = value.state_dict() if hasattr(value, "state_dict") else {}
    own = getattr(value, "__dict__", {})
    public = {name: own[name] for name in own if name[0] != "_" and name not in state}
    return [getattr(value, "__qualname__", None), public]


def _layer(module: nn.Module) -> tuple[object, ...]:
    """The class of a layer, its options, and, unless it is PyTorch's own, its code."""
    own = type(module).__module__.startswith("torch.")
    code = None if own else _source(type(module).forward)
    return type(module).__qualname__, module.extra_repr(), code


def _source(function: Any) -> object:
    """The source of a function; its compiled code where a line may hold several, or none is."""
    code = getattr(function, "__code__", None)
    with suppress(OSError, TypeError):
        if function.__name__ != "<lambda>":
            return inspect.getsource(function)
    return _compiled(code) if code else getattr(function, "__qualname__", "")


def _compiled(code: CodeType) -> list[object]:
    inner = [_compiled(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return [code.co_code, code.co_names, inner]
