"""Checkpoints of a training run: one file, checked when it is read, never half written."""

import hashlib
import io
import os
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
    torch.save(content, buffer)
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


def fingerprint(value: object) -> str:
    """Hash of nested dictionaries, lists, tensors and plain values, by content."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def as_path(name: str, value: object) -> Path:
    """Return ``value`` as a path, or raise ValueError."""
    if not isinstance(value, str | os.PathLike) or Path(value).is_dir():
        raise ValueError(f"{name} must be the path of a file, got {value!r}")
    return Path(value)


def _feed(digest: Any, value: object) -> None:
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        digest.update(f"tensor {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        digest.update(b"dict %d" % len(value))
        for key, item in value.items():
            _feed(digest, key)
            _feed(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(b"list %d" % len(value))
        for item in value:
            _feed(digest, item)
    elif isinstance(value, float):
        digest.update(b"float" + struct.pack("<d", value))
    else:
        digest.update(f"{type(value).__name__} {value!r}".encode())
