"""How the claims about other networks, and about rotation against chance, are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType

import numpy as np

from flatminima.statistics import Interval
from study.claims.evidence import Evidence
from study.claims.verdicts import SHARPNESS, Effect, decided, every

__all__ = [
    "at_the_edge",
    "beyond_chance",
    "exchanged",
    "flattens",
    "more_at_larger_rates",
    "sharpens_with_depth",
]

TURNS = {
    "v1": "$v_1$",
    "followed": "the eigenvector that continues $v_1$",
    "space": "the leading space",
}
"""Measure of ``rotation`` -> what turns."""
NULLS = {"stable": "stable training", "quiet": "a window without an episode"}
NORMS = {
    "none": "without normalization",
    "group": "group normalization",
    "batch": "batch normalization",
}

Found = tuple[ModuleType, str, dict[str, Interval]]
"""``rotation``, what one of its settings is called, and the effects there."""


def _experiment(name: str) -> ModuleType:
    """The module of an experiment, loaded when it is needed: it needs PyTorch."""
    return import_module(f"study.experiments.{name}")


def _settings(evidence: Evidence) -> Iterator[Found]:
    rotation = _experiment("rotation")
    for stored in evidence.stored("rotation"):
        found = rotation.effects(stored)
        for (model, method), said in rotation.SETTINGS.items():
            start = f"{model}-{method}-"
            own = {n.removeprefix(start): e for n, e in found.items() if n.startswith(start)}
            if own:
                yield rotation, said, own


def _called(part: str) -> str:
    """What a part of ``larger`` is called."""
    kind, _, which = part.partition("-")
    if kind == "depth":
        return f"tanh MLP, {which} hidden layers"
    return f"CNN, {NORMS[which]}" if kind == "norm" else "CNN at its smallest rate, longer runs"


def at_the_edge(evidence: Evidence) -> Iterator[Effect]:
    """How far the level is from the threshold, in each network."""
    near = _experiment("edge").NEAR
    for stored in evidence.stored("larger"):
        for name, apart in _experiment("larger").effects(stored).items():
            if name.startswith("level-"):
                what = "distance of the level from the threshold, relative to it"
                what += f" ({_called(name.removeprefix('level-'))})"
                yield Effect(what, f"{apart:.3f}", decided(apart, near, above=False))
    for _, said, own in _settings(evidence):
        # Under descent some of its runs begin beyond the edge and do not come back below it.
        name = {"transformer": "end", "transformer, Adam": "level"}.get(said)
        if name in own:
            level, when = own[name], "at the end" if name == "end" else "at the edge"
            outcome = every(decided(level, 1 - near), decided(level, 1 + near, above=False))
            what = f"mean level {when}, in units of the threshold ({said})"
            yield Effect(what, f"{level:.2f}", outcome)


def sharpens_with_depth(evidence: Evidence) -> Iterator[Effect]:
    """The rank correlation of depth and progressive sharpening."""
    for stored in evidence.stored("larger"):
        found = _experiment("larger").effects(stored)["depth"]
        what = "rank correlation of the number of hidden layers and the factor of sharpening"
        yield Effect(what, f"{found:.2f}", decided(found))


def beyond_chance(measure: str) -> Callable[[Evidence], Iterator[Effect]]:
    """How much more an episode turns than each of its nulls, in each network."""

    def turned(evidence: Evidence) -> Iterator[Effect]:
        for rotation, said, own in _settings(evidence):
            for null in rotation.NULLS:
                if f"{measure}-{null}" in own:
                    more = own[f"{measure}-{null}"]
                    what = f"turn of {TURNS[measure]} in an episode minus that in {NULLS[null]}"
                    yield Effect(f"{what} ({said})", f"{more:+.2f}", decided(more))

    return turned


def exchanged(evidence: Evidence) -> Iterator[Effect]:
    """What chance would leave of the space, and of v_1 within it."""
    for rotation, said, own in _settings(evidence):
        kept, left = own["kept"], own["exchanged"]
        what = "share of the new $v_1$ in the leading space before, beyond that of a random vector"
        yield Effect(f"{what} ({said})", f"{kept:+.3f}", decided(kept))
        what = f"share of it in the old $v_1$, beyond one in {rotation.LEADING} of that"
        yield Effect(f"{what} ({said})", f"{left:+.3f}", decided(left, above=False))


def flattens(evidence: Evidence) -> Iterator[Effect]:
    """What an episode does to the sharpness, and what stable training does."""
    for _, said, own in _settings(evidence):
        for name, place in (("flattens", "an episode"), ("flattens-stable", "stable training")):
            change = own[name]
            percent = f"{100 * change.map(np.expm1):+.0f}%"
            outcome = decided(change, above=name != "flattens")
            what = f"change of the sharpness in {place} ({said})"
            yield Effect(what, percent, outcome, unit=SHARPNESS, interval=change)


def more_at_larger_rates(evidence: Evidence) -> Iterator[Effect]:
    """The turn of an episode at the largest rate minus that at the smallest."""
    for _, said, own in _settings(evidence):
        for measure in ("v1", "space"):
            if f"rates-{measure}" in own:
                more = own[f"rates-{measure}"]
                what = f"turn of {TURNS[measure]} at the largest rate minus that at the smallest"
                yield Effect(f"{what} ({said})", f"{more:+.3f}", decided(more))
