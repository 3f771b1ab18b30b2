"""Numbers that a chapter computes and its text shows: the value is kept beside what is shown.

A cell glues a number, and the prose pastes its text with ``{glue:text}`name```. Whoever needs the
number itself (`study.claims` judges by it) reads the value in the same output, never the text.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flatminima._text import number_text
from flatminima.statistics import Interval
from study.pages import notebooks

__all__ = ["GluedNumber", "glue_number", "glued_numbers"]

_VALUE = "value"
"""The key of the output's metadata that holds the value."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class GluedNumber(NamedTuple):
    """What an executed chapter holds under one name.

    Attributes:
        text: what the prose shows.
        value: the number, or the interval; None where a text alone was glued, or nothing finite.
    """

    text: str
    value: float | Interval | None


def glue_number(name: str, value: float | Interval | str, fmt: str = ".3g") -> None:
    """Make a computed number available to the prose as ``{glue:text}`name```, and to the study.

    Args:
        name: what the prose and the claims call it.
        value: a number or an interval, in the unit in which it is judged; a string is shown as it
            is, and has no value.
        fmt: how the value is shown: in plain decimal, or as ``a × 10^b``, with a minus sign.

    Raises:
        TypeError: if the value is none of these.
    """
    from IPython.display import display
    from myst_nb.ext.glue import GLUE_PREFIX

    if not isinstance(value, str | Interval) and not hasattr(value, "__float__"):
        raise TypeError(f"value must be a number, an Interval or a string, got {value!r}")
    # As a string, in its quotes: MyST-NB evaluates what it pastes, and would make (60, 0) of 60,000
    # and 0.9 of 0.90.
    data = {f"{GLUE_PREFIX}text/plain": repr(_shown(value, fmt))}
    metadata = {"scrapbook": {"name": name, "mime_prefix": GLUE_PREFIX}, _VALUE: _plain(value)}
    display(data, raw=True, metadata=metadata)


def _shown(value: float | Interval | str, fmt: str) -> str:
    if isinstance(value, str | Interval):
        return value if isinstance(value, str) else format(value, fmt)
    text = number_text(value, fmt)
    if "e" in text:
        mantissa, exponent = text.split("e")
        power = str(int(exponent.replace("−", "-"))).translate(_RAISED)
        text = f"{mantissa} × 10{power}"
    return text


def _plain(value: float | Interval | str) -> float | list[float] | None:
    """The value as JSON can hold it; None for a text, or if something in it is not finite."""
    if isinstance(value, str):
        return None
    plain = [float(part) for part in value] if isinstance(value, Interval) else float(value)
    return plain if np.isfinite(plain).all() else None


def glued_numbers(chapters: Path) -> dict[str, dict[str, GluedNumber]]:
    """Document -> name -> every number in the outputs of the notebooks in a folder."""
    found = {}
    for path in sorted(Path(chapters).glob("*.ipynb")):
        found[path.stem] = {
            output["metadata"]["scrapbook"]["name"]: GluedNumber(
                ast.literal_eval("".join(text)), _read(output["metadata"].get(_VALUE))
            )
            for output in notebooks.outputs(path)
            if "scrapbook" in output.get("metadata", {})
            for kind, text in output["data"].items()
            if kind.endswith("text/plain")
        }
    return found


def _read(stored: float | list[float] | None) -> float | Interval | None:
    return Interval(*stored) if isinstance(stored, list) else stored
