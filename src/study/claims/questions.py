"""How the claims of the chapter on the reviewers' questions are measured: evidence -> effects."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import numpy as np

from study.claims.evidence import Evidence
from study.claims.verdicts import ACCURACY, SHARPNESS, Effect, decided, every

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
        unstable = [c for c in np.unique(stored["factor"]) if c != exploration.STABLE]
        for name, said in EXPLORED.items():
            for c in unstable:
                found = measured[f"{name}-{c:g}"]
                what = f"{said}, unstable ($c = {c:g}$) over stable{_in(setting)}"
                yield Effect(what, f"{found.map(np.exp):.2f} times", decided(found))


def explored_by_rotation(evidence: Evidence) -> Iterator[Effect]:
    """The same of gradient descent over what is left without the even part of the gradient."""
    for setting, _, measured in evidence.measured("exploration"):
        for name, said in EXPLORED.items():
            found = measured[f"rotation-{name}"]
            what = f"{said}, with the even part over without{_in(setting)}"
            yield Effect(what, f"{found.map(np.exp):.2f} times", decided(found))


def falls(evidence: Evidence) -> Iterator[Effect]:
    """How much each quantity falls from the turn of an instability to its resolution."""
    timing = _experiment("timing")
    for setting, _, measured in evidence.measured("timing"):
        for name in timing.BEYOND:
            fall = measured[f"falls-{name}"]
            what = f"fall of {QUANTITIES[name]} from turn to resolution, over its mean, beyond the "
            what += f"null's{_in(setting)}"
            yield Effect(what, f"{fall:.2f}", decided(fall))


def leads(evidence: Evidence) -> Iterator[Effect]:
    """How many steps before the loss turns each quantity begins to fall."""
    timing = _experiment("timing")
    for setting, _, measured in evidence.measured("timing"):
        for name in timing.BEYOND:
            lead, beyond = (measured[f"{part}-{name}"] for part in ("leads", "beyond"))
            what = f"steps by which {QUANTITIES[name]} leads the turn of the loss, and by which "
            what += f"it does so beyond the null{_in(setting)}"
            outcome = every(decided(lead), decided(beyond))
            yield Effect(what, f"{lead:.1f} and {beyond:.1f}", outcome)


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
                    outcome, ratio = decided(found, above=False), f"{found.map(np.exp):.2f}"
                    drawn = {"unit": SHARPNESS, "interval": found}
                    yield Effect(what + _in(setting), ratio, outcome, **drawn)


def starts_flat(evidence: Evidence) -> Iterator[Effect]:
    """Flat starts that were never unstable against the standard one, at the same rate and loss."""
    starts = _experiment("starts")
    sharper = np.log(starts.FLATTER)
    for setting, _, measured in evidence.measured("starts"):
        for start in starts.FLAT:
            if f"flat-{start}" in measured:
                ratio, gain = (measured[f"{name}-{start}"] for name in ("flat", "accurate"))
                what = f"that of the standard start, `{start}`{_in(setting)}"
                outcome, said = decided(ratio, sharper, above=False), f"{ratio.map(np.exp):.2f}"
                drawn = {"unit": SHARPNESS, "interval": ratio}
                yield Effect(f"sharpness over {what}", said, outcome, **drawn)
                outcome, said = decided(gain, -starts.LOSS), f"{100 * gain:+.1f} points"
                drawn = {"unit": ACCURACY, "interval": gain}
                yield Effect(f"accuracy minus {what}", said, outcome, **drawn)
