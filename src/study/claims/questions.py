"""How the claims of the chapter on the reviewers' questions are measured: evidence -> effects."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import numpy as np

from study.claims.evidence import Evidence
from study.claims.verdicts import Effect

__all__ = ["explored", "explored_by_rotation", "falls", "leads", "outlasts", "starts_flat"]

EXPLORED = {
    "dimension-1": "dimensions that $v_1$ visits",
    "dimension-space": "dimensions that the leading space visits",
    "novel": "share of it outside the ten leading directions of the start",
    "outside": "path outside the initial leading space",
    "function": "path of the outputs on unseen images",
    "away": "distance covered outside the initial leading space",
    "function-away": "distance covered by those outputs",
}
"""Effect of ``exploration`` -> what it is called here."""
QUANTITIES = {
    "lambda_min": r"$\lvert\lambda_{\min}\rvert$",
    "along": r"$\lvert T[v_1, v_1, v_1]\rvert$",
    "across": r"$\lVert P_\perp\nabla\lambda_1\rVert$",
    "fourth": r"$\lvert q\rvert$",
}
"""Quantity beyond the sharpness -> its symbol."""


def _experiment(name: str) -> ModuleType:
    """The module of an experiment, loaded when it is needed: it needs PyTorch."""
    return import_module(f"study.experiments.{name}")


def _in(setting: str) -> str:
    return f" ({setting})" if setting else ""


def explored(evidence: Evidence) -> Iterator[Effect]:
    """What unstable training explores over what stable training does, in equal time."""
    exploration = _experiment("exploration")
    for setting, stored, measured in evidence.measured("exploration"):
        held = exploration.predictions(stored)
        unstable = [c for c in np.unique(stored["factor"]) if c != exploration.STABLE]
        for name, said in EXPLORED.items():
            ratios = [measured[f"{name}-{c:g}"].map(np.exp) for c in unstable]
            value = "; ".join(
                f"{ratio:.2f} ($c = {c:g}$)" for ratio, c in zip(ratios, unstable, strict=True)
            )
            what = f"{said}, unstable over stable{_in(setting)}"
            yield Effect(what, value, held[f"more-{name}"])


def explored_by_rotation(evidence: Evidence) -> Iterator[Effect]:
    """The same of gradient descent over what is left without the even part of the gradient."""
    for setting, _, measured in evidence.measured("exploration"):
        for name, said in EXPLORED.items():
            found = measured[f"rotation-{name}"]
            what = f"{said}, with the even part over without{_in(setting)}"
            yield Effect(what, f"{found.map(np.exp):.2f}", found.low > 0)


def falls(evidence: Evidence) -> Iterator[Effect]:
    """How much each quantity falls from the turn of an instability to its resolution."""
    timing = _experiment("timing")
    for setting, stored, measured in evidence.measured("timing"):
        held = timing.predictions(stored)
        for name in timing.BEYOND:
            what = f"fall of {QUANTITIES[name]} from turn to resolution, over its mean, beyond the "
            what += f"null's{_in(setting)}"
            yield Effect(what, f"{measured[f'falls-{name}']:.2f}", held[f"falls-{name}"])


def leads(evidence: Evidence) -> Iterator[Effect]:
    """How many steps before the loss turns each quantity begins to fall."""
    timing = _experiment("timing")
    for setting, stored, measured in evidence.measured("timing"):
        held = timing.predictions(stored)
        for name in timing.BEYOND:
            what = f"steps by which {QUANTITIES[name]} leads the turn of the loss{_in(setting)}"
            yield Effect(what, f"{measured[f'leads-{name}']:.1f}", held[f"leads-{name}"])


def outlasts(evidence: Evidence) -> Iterator[Effect]:
    """Sharpness of a run whose rate was lowered, over that of one never unstable at that rate."""
    decay = _experiment("decay")
    places = {"flatter": f"at the loss {decay.MATCHED:g}", "end": "at the end of the continuation"}
    for setting, stored, measured in evidence.measured("decay"):
        for rate in reversed(np.unique(stored["final_rate"])):
            for effect, place in places.items():
                for arm in decay.LOSSES:
                    found = measured[f"{effect}-{arm}-{rate:g}"]
                    what = f"sharpness over that of *never*, lowered {arm} to {rate:g}, {place}"
                    ratio = f"{found.map(np.exp):.2f}"
                    yield Effect(what + _in(setting), ratio, found.high < 0)


def starts_flat(evidence: Evidence) -> Iterator[Effect]:
    """Flat starts that were never unstable against the standard one, at the same rate and loss."""
    starts = _experiment("starts")
    for setting, stored, measured in evidence.measured("starts"):
        held = starts.predictions(stored)
        for start in starts.FLAT:
            for name, said in (("flat", "sharpness over"), ("accurate", "accuracy minus")):
                if f"{name}-{start}" in measured:
                    found = measured[f"{name}-{start}"]
                    ratio, gain = f"{found.map(np.exp):.2f}", f"{100 * found:+.1f} points"
                    what = f"{said} that of the standard start, `{start}`{_in(setting)}"
                    met = bool(held[f"{name}-{start}"])
                    yield Effect(what, ratio if name == "flat" else gain, met)
