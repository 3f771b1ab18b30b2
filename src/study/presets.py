"""How large the experiments of a chapter are: the preset named by FLATMINIMA_PRESET.

``ci`` is the smallest run that still shows each effect, ``default`` the one the book is built
with on two CPU cores, ``gpu`` the full size for a machine with an accelerator.
"""

import os
from typing import TypeVar

from flatminima._validation import one_of

__all__ = ["NAMES", "choose", "current"]

NAMES = ("ci", "default", "gpu")
"""The presets, the smallest first."""
_T = TypeVar("_T")


def current() -> str:
    """Return the preset in force: ``ci``, ``default`` or ``gpu``.

    Raises:
        ValueError: if FLATMINIMA_PRESET names another preset.
    """
    return one_of("FLATMINIMA_PRESET", os.environ.get("FLATMINIMA_PRESET", "default"), NAMES)


def choose(*, ci: _T, default: _T, gpu: _T) -> _T:
    """Return the value that belongs to the preset in force."""
    return {"ci": ci, "default": default, "gpu": gpu}[current()]
