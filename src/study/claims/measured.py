"""How each claim is measured: evidence -> effects, by the criterion of the chapter it is from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np

from flatminima.statistics import Interval
from study import results
from study.claims.evidence import Evidence
from study.claims.verdicts import Effect

__all__ = [
    "ARCHITECTURES",
    "MEASURES",
    "NETWORKS",
    "adam",
    "at_the_edge",
    "beyond",
    "damped",
    "ends",
    "flatter",
    "monotone",
    "more_accurate",
    "more_at_larger_rates",
    "negative_curvature",
    "outweighs_in_time",
    "paid",
    "polarity",
    "polarity_size",
    "proved",
    "ranks",
    "reflected",
    "sgd",
    "without_depth",
]

MEASURES = {
    "sharpness": "sharpness",
    "trace": "trace of the Hessian",
    "adaptive_sharpness": "adaptive sharpness",
    "average_sharpness": "average-case sharpness",
    "relative_flatness": "relative flatness",
}
ARCHITECTURES = {"tanh": "tanh", "relu": "ReLU", "deep": "tanh, four hidden layers"}
NETWORKS = {"tanh": "tanh MLP", "relu": "ReLU MLP", "cnn": "CNN"}


def _named(*parts: str) -> str:
    """What tells an effect from the others of its claim, in parentheses."""
    kept = [part for part in parts if part]
    return f" ({', '.join(kept)})" if kept else ""


def _percent(interval: Interval) -> str:
    """A difference of logarithms as a change in percent."""
    return f"{100 * interval.map(np.expm1):+.0f} %"


def _points(interval: Interval) -> str:
    """A difference of accuracies in percentage points."""
    return f"{100 * interval:+.1f} points"


def _number(text: str) -> str:
    return text.replace("-", "−")


def flatter(evidence: Evidence) -> list[Effect]:
    """Each measure of flatness, after unstable against after stable rates."""
    found = []
    for setting, _, measured in evidence.measured("flatness"):
        for column, name in MEASURES.items():
            what = f"{name}, $c > 1$ against $c < 1${_named(setting)}"
            found.append(Effect(what, _percent(measured[column]), measured[column].high < 0))
    return found


def more_accurate(evidence: Evidence) -> list[Effect]:
    """The gain in test accuracy at the rate that was named beforehand."""
    flatness, found = _experiment("flatness"), []
    for setting, _, measured in evidence.measured("flatness"):
        gain = measured[f"gain-{flatness.NAMED:g}"]
        what = f"test accuracy at $c = {flatness.NAMED:g}$ minus that at $c = {flatness.STABLE:g}$"
        found.append(Effect(what + _named(setting), _points(gain), gain.low > 0))
    return found


def ends(evidence: Evidence) -> list[Effect]:
    """Where the gain ends: runs that diverge, and the fall of accuracy before that."""
    flatness, found = _experiment("flatness"), []
    for setting, stored, measured in evidence.measured("flatness"):
        largest = float(np.max(stored["factor"]))
        survived = float(np.mean(stored.where(factor=largest)["status"] == "done"))
        what = f"runs that survive at $c = {largest:g}${_named(setting)}"
        found.append(Effect(what, f"{100 * survived:.0f} %", survived < 1))
        last = max(float(name[5:]) for name in measured if name.startswith("gain-"))
        what = f"accuracy at $c = {last:g}$ minus that at $c = {flatness.NAMED:g}$"
        fall = measured["fall"]
        found.append(Effect(what + _named(setting), _points(fall), fall.high < 0))
    return found


def paid(evidence: Evidence) -> list[Effect]:
    """Whether more instability budget goes with less sharpness, within a seed."""
    found = []
    for setting, _, measured in evidence.measured("flatness"):
        paid = measured["budget"]
        what = f"rank correlation of budget and final sharpness{_named(setting)}"
        found.append(Effect(what, f"{paid:.2f}", paid.high < 0))
    return found


def reflected(evidence: Evidence) -> list[Effect]:
    """Whether the reflection law or the threshold is nearer to where an instability leaves."""
    found = []
    for setting, stored in evidence.settings("flatness"):
        after = stored["after_first"].astype(float) * stored["learning_rate"].astype(float) / 2
        factor = stored["factor"].astype(float)
        # The law is for a small excess, and negative past c = 2.
        near = (factor > 1) & (factor <= 1.5) & np.isfinite(after)
        law, edge = (
            float(np.median(np.abs(after[near] - goal))) for goal in (2 - factor[near], 1.0)
        )
        what = r"median distance of $\eta\lambda_1/2$ from the law, and from the threshold"
        found.append(Effect(what + _named(setting), f"{law:.2f} and {edge:.2f}", law < edge))
    return found


def beyond(evidence: Evidence) -> list[Effect]:
    """The gain in accuracy from a rate beyond the edge, in each architecture."""
    found = []
    for setting, stored, measured in evidence.measured("comparison"):
        for name in dict.fromkeys(stored["architecture"].tolist()):
            gain = measured[f"rate-{name}-test_accuracy"]
            what = "accuracy, rate beyond minus rate below the edge"
            what += _named(ARCHITECTURES.get(name, name), setting)
            found.append(Effect(what, _points(gain), gain.low > 0))
    return found


def ranks(measure: str) -> Callable[[Evidence], list[Effect]]:
    """The rank correlation of a measure with test accuracy, in each architecture."""

    def ranks(evidence: Evidence) -> list[Effect]:
        found = []
        for setting, stored, measured in evidence.measured("comparison"):
            for name in dict.fromkeys(stored["architecture"].tolist()):
                rho = measured[f"rho-{name}-{measure}"]
                what = "rank correlation with test accuracy"
                what += _named(ARCHITECTURES.get(name, name), setting)
                found.append(Effect(what, f"{rho:.2f}", rho.high < 0))
        return found

    return ranks


def sgd(part: str, what: str) -> Callable[[Evidence], list[Effect]]:
    """One part of the decomposition, for each large rate and batch size, the largest rate first."""

    def parts(evidence: Evidence) -> list[Effect]:
        found = []
        for setting, stored, measured in evidence.measured("sgd"):
            cells = _experiment("sgd").Cells(stored)
            for rate in reversed(cells.large):
                for batch in cells.batches:
                    value = measured[f"{rate:g}-{batch}-{part}"]
                    said = what.format(rate=rate, batch=batch) + _named(setting)
                    found.append(Effect(said, f"{value:.2f}", value.low > 0))
        return found

    return parts


def outweighs_in_time(evidence: Evidence) -> list[Effect]:
    """Instability minus noise over as much training time, for each large rate."""
    found = []
    for setting, stored, measured in evidence.measured("sgd"):
        cells = _experiment("sgd").Cells(stored)
        for rate in reversed(cells.large):
            more = measured[f"{rate:g}-long-difference"]
            what = f"instability at {rate:g} minus noise over {cells.longer:,} updates"
            found.append(Effect(what + _named(setting), f"{more:.2f}", more.low > 0))
    return found


def adam(kind: str) -> Callable[[Evidence], list[Effect]]:
    """Adam's variants against Adam, without gradient descent, which restores nothing in Adam."""

    def variants(evidence: Evidence) -> list[Effect]:
        found = []
        for setting, _, measured in evidence.measured("adam"):
            for name, value in measured.items():
                method = name.removeprefix(f"{kind}-")
                if method in (name, "gd"):
                    continue
                if kind == "flatter":
                    said = f"{value.map(np.exp):.2f}"
                    what = f"sharpness of Adam over that of `{method}`"
                else:
                    said, what = _points(value), f"test accuracy of `{method}` minus that of Adam"
                found.append(Effect(what + _named(setting), said, value.low > 0))
        return found

    return variants


def _experiment(name: str) -> ModuleType:
    """The module of an experiment, with the criteria that its chapter uses."""
    return sys.modules[results.experiment(name).function.__module__]


def monotone(evidence: Evidence) -> list[Effect]:
    """Steps that raise the loss while training is stable, and the proofs that none does."""
    chapter, found = "edge_of_stability", []
    for rate in ("0.06", "0.1", "0.15"):
        count = evidence.number(chapter, f"eos-{rate}-before")
        what = f"steps that raise the loss before the edge, $\\eta = {rate}$, all seeds"
        found.append(Effect(what, f"{count:g}", count == 0))
    edge = _experiment("edge")
    for stored in evidence.stored("edge"):
        for model in edge.MODELS:
            share = float(np.max(edge.control(stored, "rises_before", model, "mse")))
            what = f"steps of a stable run that raise the loss, all seeds ({NETWORKS[model]})"
            found.append(Effect(what, f"{100 * share:.0f} %", share == 0))
    tests = [*evidence.tests("Q1"), *evidence.tests("Q2")]
    found.append(Effect("proved for quadratics and smooth losses; tests", f"{len(tests)}", True))
    return found


def at_the_edge(evidence: Evidence) -> list[Effect]:
    """The exponent of the sharpness in the rate, in each architecture."""
    edge, found = _experiment("edge"), []
    for stored in evidence.stored("edge"):
        for model in edge.MODELS:
            rates, level = edge.cell(stored, "level", model, "mse")
            whole = np.isfinite(level).all(axis=0)
            exponent = edge.exponents(level[:, whole], rates[whole])
            error = exponent.std(ddof=1) / np.sqrt(len(exponent))
            text = _number(f"{exponent.mean():.2f} ± {error:.2f}")
            what = r"exponent $a$ in $\lambda_1 \propto \eta^a$ at the edge, ± its standard error"
            rest = "" if whole.all() else f"; at {len(rates) - whole.sum()} of {len(rates)} rates "
            rest += "" if whole.all() else "some runs do not arrive"
            met = edge.keeps_to_the_edge(level, rates)
            found.append(Effect(f"{what} ({NETWORKS[model]}){rest}", text, met))
    return found


def polarity(evidence: Evidence) -> list[Effect]:
    """The cosine of the rotations at opposite displacements."""
    cosine = evidence.number("episodes_and_rotation", "epi-cosine")
    what = "mean cosine of the rotations of $v_1$ at $+x$ and $-x$, $x = 0.001$"
    return [Effect(what, _number(f"{cosine:.4f}"), cosine < -0.9)]


def polarity_size(evidence: Evidence) -> list[Effect]:
    """The error of the predicted rotation, at a small displacement and at a typical one."""
    found = []
    places = {
        "epi-deviation": "$x = 0.001$",
        "epi-deviation-10": "$x = 0.01$, as far as at the edge",
    }
    for name, place in places.items():
        error = evidence.number("episodes_and_rotation", name)
        what = f"median relative error of the predicted rotation, {place}"
        found.append(Effect(what, f"{100 * error:.2g} %", error < 0.1))
    return found


def more_at_larger_rates(evidence: Evidence) -> list[Effect]:
    """The rank correlation of the rate with how far the leading space stays."""
    trend = evidence.interval("episodes_and_rotation", "epi-trend")
    what = "rank correlation of the rate and the overlap of the leading spaces"
    return [Effect(what, f"{trend:.2f}", trend.high < 0)]


def negative_curvature(evidence: Evidence) -> list[Effect]:
    """The change of the smallest eigenvalue at the peak of an episode."""
    change = evidence.interval("episodes_and_rotation", "epi-lambda_min")
    what = r"change of $\lambda_{\min}$ at the peak of an episode, relative to its mean size"
    what += "; below 0 it is more negative"
    return [Effect(what, f"{change:+.0f} %", change.high < 0)]


def without_depth(evidence: Evidence) -> list[Effect]:
    """How far the leading space of a linear model turns, and that of a network."""
    chapter = "episodes_and_rotation"
    turn, shown = (read(chapter, "epi-linear") for read in (evidence.number, evidence.shown))
    network = 1 - evidence.number(chapter, "epi-overlap-stable")
    what = "one minus the overlap: linear model, and network in stable training"
    return [Effect(what, f"{shown} and {network:.2f}", turn < network / 100)]


def proved(*labels: str) -> Callable[[Evidence], list[Effect]]:
    """The number of tests of each of the proved statements."""

    def statements(evidence: Evidence) -> list[Effect]:
        return [
            Effect(
                f"number of tests that check {label}, proved", f"{len(evidence.tests(label))}", True
            )
            for label in labels
        ]

    return statements


def damped(evidence: Evidence) -> list[Effect]:
    """How much higher the loss peaks in an episode with Adam's second moment frozen."""
    least = evidence.number("adam", "adam-higher-least")
    number = evidence.number("adam", "adam-episodes")
    what = f"least factor by which the loss peaks higher, $v$ frozen ({number:g} episodes)"
    return [Effect(what, f"{least:.1f}", least > 1)]
