"""What instabilities are worth in accuracy, by the experiment ``gain``: evidence -> effects."""

from __future__ import annotations

from collections.abc import Iterator

from flatminima.statistics import Interval
from study.claims.evidence import DATA, Evidence
from study.claims.verdicts import Effect, gained

__all__ = ["LOSSES", "beyond", "falls", "more_accurate", "place", "with_wrong_labels"]

NETWORKS = {"tanh": "tanh MLP", "relu": "ReLU MLP", "cnn": "CNN"}
LOSSES = {"mse": "squared loss", "cross_entropy": "cross-entropy"}
FINE = "+.2f"
"""How gains are shown: with so many seeds, to a hundredth of a point."""


def place(setting: str) -> str:
    """What a setting ``<model>-<dataset>-<loss>-<share>`` is called where it is shown."""
    model, rest = setting.split("-", 1)
    dataset, loss, share = rest.rsplit("-", 2)
    said = f"{NETWORKS[model]}, {DATA[dataset]}, {LOSSES[loss]}"
    return said if float(share) == 0 else f"{said}, {float(share):.0%} of the labels wrong"


def _of(evidence: Evidence, kind: str) -> Iterator[tuple[str, Interval]]:
    """(setting, effect) of the effects ``<kind>-<setting>``, with right labels."""
    for _, _, measured in evidence.measured("gain"):
        for name, value in measured.items():
            setting = name.removeprefix(f"{kind}-")
            if setting != name and setting.endswith("-0"):
                yield setting, value


def beyond(evidence: Evidence) -> Iterator[Effect]:
    """The gain in accuracy at the rate beyond the edge that was named beforehand."""
    from study.experiments.gain import NAMED, STABLE, survivors

    for _, stored, measured in evidence.measured("gain"):
        reached = survivors(stored)
        for name, value in measured.items():
            setting, _, c = name.removeprefix("gain-").rpartition("-")
            if name.startswith("gain-") and c == f"{NAMED:g}" and setting.endswith("-0"):
                what = f"accuracy at $c = {NAMED:g}$ minus that at $c = {STABLE:g}$"
                kept, every = reached[setting]
                seeds = "" if kept == every else f"; {kept} of {every} seeds survive"
                yield gained(f"{what} ({place(setting)}{seeds})", value, FINE)


def more_accurate(evidence: Evidence) -> Iterator[Effect]:
    """What the accuracy gains for each halving of the sharpness, over all rates."""
    for setting, value in _of(evidence, "slope"):
        what = f"gain in accuracy for each halving of the sharpness ({place(setting)})"
        yield gained(what, value, FINE)


def falls(evidence: Evidence) -> Iterator[Effect]:
    """What the accuracy loses at the largest rate that enough seeds survive."""
    for setting, value in _of(evidence, "fall"):
        what = "accuracy at the largest $c$ that enough seeds survive minus that at $c = 2$"
        yield gained(f"{what} ({place(setting)})", value, FINE, above=False)


def with_wrong_labels(evidence: Evidence) -> Iterator[Effect]:
    """How much larger the gain is where a fifth of the labels is wrong, by ``labels``."""
    what = "gain with a fifth of the labels wrong minus gain with right ones"
    for _, _, measured in evidence.measured("labels"):
        for name, value in measured.items():
            dataset, loss = name.removeprefix("more-").rsplit("-", 1)
            yield gained(f"{what} ({DATA[dataset]}, {LOSSES[loss]})", value, FINE)
