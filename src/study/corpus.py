"""A small text, the book's own prose, on which the experiments train a transformer.

The file beside this module was made from the chapters by ``tools/make_prose.py`` and stays as it
is, whatever becomes of them: a text that changed with the book would change what was measured.

Example:
    >>> (inputs, targets), _ = sequences(4, 32, seed=0)
    >>> inputs.shape, bool((inputs[:, 1:] == targets[:, :-1]).all())
    (torch.Size([4, 32]), True)
"""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flatminima._validation import positive_int

__all__ = ["SHA256", "TEXT", "CorruptTextError", "sequences", "symbols"]

TEXT = Path(__file__).parent / "data" / "prose.txt"
"""The file, ASCII."""
SHA256 = "45fed14ea14dd77a6374bb4de6bec0c785ecf0c3a68f2bbcca336a2572c6cdbc"
"""Of the file; `read` refuses another one."""


class CorruptTextError(ValueError):
    """The file is not the text that the stored results were made with."""


@cache
def read(path: Path = TEXT) -> str:
    """The text.

    Raises:
        CorruptTextError: if the file has another SHA-256 than SHA256.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise CorruptTextError(f"{path} must have the SHA-256 {SHA256}, got {found}")
    return content.decode("ascii")


def symbols() -> str:
    """Every character of the text once, in their order: symbol i stands for the i-th.

    Example:
        >>> symbols()[-5:]
        'vwxyz'
    """
    return "".join(sorted(set(read())))


def sequences(
    n: int, context: int, *, seed: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Pieces of the text: inputs and, one character on, targets, to train on and the rest.

    The text is cut into pieces of ``context`` + 1 characters that do not overlap, of which ``n``
    are drawn by the seed.

    Returns:
        (inputs, targets) of the n drawn, each (n, context), int64; and of all others.

    Raises:
        ValueError: for numbers out of range, or more pieces than there are.
    """
    n, context = positive_int("n", n), positive_int("context", context)
    places = symbols()
    codes = np.array([places.index(character) for character in read()])
    count = len(codes) // (context + 1)
    if n >= count:
        raise ValueError(f"n must be below the {count} pieces of the text, got {n}")
    pieces = torch.tensor(codes[: count * (context + 1)]).view(count, context + 1)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    first, rest = pieces[order[:n]], pieces[order[n:]]
    return (first[:, :-1], first[:, 1:]), (rest[:, :-1], rest[:, 1:])
