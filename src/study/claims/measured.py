"""How each claim is measured: evidence -> effects, by the criterion of the chapter it is from."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np

from flatminima._text import number_text
from flatminima.statistics import Interval
from study import results
from study.claims.evidence import Evidence
from study.claims.verdicts import SHARPNESS, UNDECIDED, Effect, decided, fallen, gained

__all__ = [
    "ARCHITECTURES",
    "MEASURES",
    "adam",
    "at_the_edge",
    "averaged",
    "beyond",
    "cause_is_necessary",
    "cause_is_sufficient",
    "damped",
    "ends",
    "flatter",
    "mirrored",
    "monotone",
    "more_accurate",
    "more_at_larger_rates",
    "negative_curvature",
    "outweighs_in_time",
    "paid",
    "polarity",
    "polarity_size",
    "ranks",
    "reflected",
    "rotation_pays",
    "rotation_pays_on_images",
    "sgd",
    "without_depth",
]

Measure = Callable[[Evidence], Iterator[Effect]]
"""How a claim is measured: evidence -> effects."""
MEASURES = {
    "sharpness": "sharpness",
    "trace": "trace of the Hessian",
    "adaptive_sharpness": "adaptive sharpness",
    "average_sharpness": "average-case sharpness",
    "relative_flatness": "relative flatness",
}
"""Column of a table -> what it is called here."""
ARCHITECTURES = {"tanh": "tanh", "relu": "ReLU", "deep": "tanh, four hidden layers"}
"""Architecture of the experiment ``comparison`` -> what it is called here."""
NETWORKS = {"tanh": "tanh MLP", "relu": "ReLU MLP", "cnn": "CNN"}


def _named(*parts: str) -> str:
    """What tells an effect from the others of its claim, in parentheses."""
    kept = [part for part in parts if part]
    return f" ({', '.join(kept)})" if kept else ""


def _percent(interval: Interval) -> str:
    """A difference of logarithms as a change in percent."""
    return f"{100 * interval.map(np.expm1):+.0f}%"


def flatter(evidence: Evidence) -> Iterator[Effect]:
    """Each measure of flatness, after unstable against after stable rates."""
    for setting, _, measured in evidence.measured("flatness"):
        for column, name in MEASURES.items():
            what = f"{name}, $c > 1$ against $c < 1${_named(setting)}"
            change = measured[column]
            outcome = decided(change, above=False)
            yield Effect(what, _percent(change), outcome, unit=SHARPNESS, interval=change)


def more_accurate(evidence: Evidence) -> Iterator[Effect]:
    """The gain in test accuracy at the rate that was named beforehand."""
    flatness = _experiment("flatness")
    for setting, _, measured in evidence.measured("flatness"):
        gain = measured[f"gain-{flatness.NAMED:g}"]
        what = f"test accuracy at $c = {flatness.NAMED:g}$ minus that at $c = {flatness.STABLE:g}$"
        yield gained(what + _named(setting), gain)


def ends(evidence: Evidence) -> Iterator[Effect]:
    """Where the gain ends: runs that diverge, and the fall of accuracy before that."""
    flatness = _experiment("flatness")
    for setting, stored, measured in evidence.measured("flatness"):
        largest = float(np.max(stored["factor"]))
        survived = float(np.mean(stored.where(factor=largest)["status"] == "done"))
        what = f"runs that survive at $c = {largest:g}${_named(setting)}"
        yield Effect(what, f"{100 * survived:.0f}%", survived < 1)
        last = max(float(name[5:]) for name in measured if name.startswith("gain-"))
        what = f"accuracy at $c = {last:g}$ minus that at $c = {flatness.NAMED:g}$"
        yield gained(what + _named(setting), measured["fall"], above=False)


def paid(evidence: Evidence) -> Iterator[Effect]:
    """Whether more instability budget goes with less sharpness, within a seed."""
    for setting, _, measured in evidence.measured("flatness"):
        paid = measured["budget"]
        what = f"rank correlation of budget and final sharpness{_named(setting)}"
        yield Effect(what, f"{paid:.2f}", decided(paid, above=False))


def reflected(evidence: Evidence) -> Iterator[Effect]:
    """Whether the reflection law or the threshold is nearer to where an instability leaves."""
    for setting, stored in evidence.settings("flatness"):
        after = stored["after_first"].astype(float) * stored["learning_rate"].astype(float) / 2
        factor = stored["factor"].astype(float)
        # The law is for a small excess, and negative past c = 2.
        near = (factor > 1) & (factor <= 1.5) & np.isfinite(after)
        law, edge = (np.median(np.abs(after[near] - goal)) for goal in (2 - factor[near], 1.0))
        what = r"median distance of $\eta\lambda_1/2$ from the law, and from the threshold"
        yield Effect(what + _named(setting), f"{law:.2f} and {edge:.2f}", bool(law < edge))


def _compared(evidence: Evidence, effect: str) -> Iterator[tuple[str, Interval]]:
    """An effect of ``comparison`` in each architecture, and what tells that from the others."""
    for setting, stored, measured in evidence.measured("comparison"):
        for name in dict.fromkeys(stored["architecture"].tolist()):
            yield _named(ARCHITECTURES.get(name, name), setting), measured[effect.format(name)]


def beyond(evidence: Evidence) -> Iterator[Effect]:
    """The gain in accuracy from a rate beyond the edge, in each architecture."""
    for named, gain in _compared(evidence, "rate-{}-test_accuracy"):
        yield gained(f"accuracy, rate beyond minus rate below the edge{named}", gain)


def ranks(measure: str) -> Measure:
    """The rank correlation of a measure with test accuracy, in each architecture."""

    def ranks(evidence: Evidence) -> Iterator[Effect]:
        for named, rho in _compared(evidence, f"rho-{{}}-{measure}"):
            what = f"rank correlation with test accuracy{named}"
            yield Effect(what, f"{rho:.2f}", decided(rho, above=False))

    return ranks


def sgd(part: str, what: str) -> Measure:
    """One part of the decomposition, for each large rate and batch size, the largest rate first."""

    def parts(evidence: Evidence) -> Iterator[Effect]:
        for setting, stored, measured in evidence.measured("sgd"):
            cells = _experiment("sgd").Cells(stored)
            for rate in reversed(cells.large):
                for batch in cells.batches:
                    value = measured[f"{rate:g}-{batch}-{part}"]
                    said = what.format(rate=rate, batch=batch) + _named(setting)
                    yield fallen(said, value)

    return parts


def outweighs_in_time(evidence: Evidence) -> Iterator[Effect]:
    """Instability minus noise over as much training time, for each large rate."""
    for setting, stored, measured in evidence.measured("sgd"):
        cells = _experiment("sgd").Cells(stored)
        for rate in reversed(cells.large):
            more = measured[f"{rate:g}-long-difference"]
            what = f"instability at {rate:g} minus noise over {cells.longer:,} updates"
            yield fallen(what + _named(setting), more)


def adam(kind: str) -> Measure:
    """Adam's variants against Adam, without gradient descent, which restores nothing in Adam.

    By the experiment that repeats what `adam` chose, with new seeds.
    """

    def variants(evidence: Evidence) -> Iterator[Effect]:
        for setting, _, measured in evidence.measured("adam_again"):
            for name, value in measured.items():
                method = name.removeprefix(f"{kind}-")
                if method in (name, "gd"):
                    continue
                if kind == "flatter":
                    what = f"sharpness of Adam over that of `{method}`{_named(setting)}"
                    said = f"{value.map(np.exp):.2f}"
                    yield Effect(what, said, decided(value), True, SHARPNESS, -value)
                else:
                    what = f"test accuracy of `{method}` minus that of Adam{_named(setting)}"
                    yield gained(what, value, "+.2f", joint=True)

    return variants


def _experiment(name: str) -> ModuleType:
    """The module of an experiment, with the criteria that its chapter uses."""
    return sys.modules[results.experiment(name).function.__module__]


def monotone(evidence: Evidence) -> Iterator[Effect]:
    """Steps that raise the loss while training is stable; Q1 and Q2 prove that none does."""
    evidence.tests("Q1", "Q2")
    chapter = "edge_of_stability"
    for rate in ("0.06", "0.1", "0.15"):
        count = evidence.number(chapter, f"eos-{rate}-before")
        what = f"steps that raise the loss before the edge, $\\eta = {rate}$, all seeds"
        yield Effect(what, f"{count:g} steps", count == 0)
    edge = _experiment("edge")
    for stored in evidence.stored("edge"):
        for model in edge.MODELS:
            share = float(np.max(edge.control(stored, "rises_before", model, "mse")))
            what = f"steps of a stable run that raise the loss, all seeds ({NETWORKS[model]})"
            yield Effect(what, f"{100 * share:.0f}%", share == 0)


def at_the_edge(evidence: Evidence) -> Iterator[Effect]:
    """The exponent of the sharpness in the rate, in each architecture."""
    edge = _experiment("edge")
    for stored in evidence.stored("edge"):
        for model in edge.MODELS:
            rates, level = edge.cell(stored, "level", model, "mse")
            whole = np.isfinite(level).all(axis=0)
            exponent = edge.exponents(level[:, whole], rates[whole])
            error = exponent.std(ddof=1) / np.sqrt(len(exponent))
            text = f"{number_text(exponent.mean(), '.2f')} ± {error:.2f}"
            what = r"exponent $a$ in $\lambda_1 \propto \eta^a$ at the edge, ± its standard error"
            what += f" ({NETWORKS[model]})"
            if missing := len(rates) - whole.sum():
                what += f"; at {missing} of {len(rates)} rates some runs do not arrive"
            yield Effect(what, text, edge.keeps_to_the_edge(level, rates))


def polarity(evidence: Evidence) -> Iterator[Effect]:
    """The cosine of the rotations at opposite displacements."""
    cosine = evidence.number("episodes_and_rotation", "epi-cosine")
    what = "mean cosine of the rotations of $v_1$ at $+x$ and $-x$, $x = 0.001$"
    yield Effect(what, number_text(cosine, ".4f"), cosine < -0.9)


def polarity_size(evidence: Evidence) -> Iterator[Effect]:
    """The error of the predicted rotation, at a small displacement and at a typical one."""
    for name, place in ("", "$x = 0.001$"), ("-10", "$x = 0.01$, as far as at the edge"):
        error = evidence.number("episodes_and_rotation", f"epi-deviation{name}")
        what = f"median relative error of the predicted rotation, {place}"
        yield Effect(what, f"{100 * error:.2g}%", error < 0.1)


def more_at_larger_rates(evidence: Evidence) -> Iterator[Effect]:
    """The rank correlation of the rate with how far the leading space stays."""
    trend = evidence.interval("episodes_and_rotation", "epi-trend")
    what = "rank correlation of the rate and the overlap of the leading spaces"
    yield Effect(what, f"{trend:.2f}", decided(trend, above=False))


def negative_curvature(evidence: Evidence) -> Iterator[Effect]:
    """The change of the smallest eigenvalue at the peak of an episode."""
    change = evidence.interval("episodes_and_rotation", "epi-lambda_min")
    what = r"change of $\lambda_{\min}$ at the peak of an episode, relative to its mean size"
    what += "; below 0 it is more negative"
    yield Effect(what, f"{change:+.0f}%", decided(change, above=False))


def without_depth(evidence: Evidence) -> Iterator[Effect]:
    """How far the leading space of a linear model turns, and that of a network."""
    chapter = "episodes_and_rotation"
    turn, shown = (read(chapter, "epi-linear") for read in (evidence.number, evidence.shown))
    network = 1 - evidence.number(chapter, "epi-overlap-stable")
    what = "one minus the overlap: linear model, and network in stable training"
    yield Effect(what, f"{shown} and {network:.2f}", turn < network / 100)


def rotation_pays(evidence: Evidence) -> Iterator[Effect]:
    """What M1 to M3 prove, measured: squared angles against flatness, and where it ends."""
    evidence.tests("M1", "M2", "M3")
    chapter = "manifold_of_minima"
    far, near = (evidence.number(chapter, f"m2-worst{end}") for end in ("-first", ""))
    what = (
        "ratio of the sum of squared angles to the logarithm of the sharpness lost, farthest from "
    )
    what += "1 of all networks; and the same at a quarter of the excess"
    yield Effect(what, f"{far:.3f} and {near:.3f}", abs(near - 1) < min(abs(far - 1), 0.1))
    least = evidence.number(chapter, "m1-low")
    what = "factor by which half the excess divides the error of the reflection law, least of all "
    what += "networks"
    # An error of first order is divided by 2, one of second order by 4.
    yield Effect(what, f"{least:.1f}", least > np.sqrt(8))


def mirrored(evidence: Evidence) -> Iterator[Effect]:
    """By what half the excess divides the error of two laws, in networks that fit images."""
    laws = {"law": "the reflection law", "memory": "the law with memory"}
    for held, measured in _next_to_minima(evidence):
        for name, side in itertools.product(laws, _experiment("mirror").SIDES):
            what = f"factor by which half the excess divides the error of {laws[name]}, {side} the "
            what += "threshold"
            yield Effect(what, f"{measured[f'{name}-{side}']:.1f}", held[f"{name}-{side}"])


def rotation_pays_on_images(evidence: Evidence) -> Iterator[Effect]:
    """The two sides of Theorem M2 in networks that fit images."""
    for held, measured in _next_to_minima(evidence):
        for side in _experiment("mirror").SIDES:
            what = f"sum of squared angles over the logarithm of the sharpness lost, {side} the "
            what += "threshold"
            ratio = measured[f"rotation-{side}"] + 1
            yield Effect(what, f"{ratio:.3f}", held[f"rotation-{side}"])


def _next_to_minima(evidence: Evidence) -> Iterator[tuple[dict[str, bool], dict[str, Interval]]]:
    """Which criteria of ``mirror`` are met, and its effects."""
    for _, stored, measured in evidence.measured("mirror"):
        yield _experiment("mirror").predictions(stored), measured


def cause_is_necessary(evidence: Evidence) -> Iterator[Effect]:
    """What is kept of the flattening where the part across is taken away."""
    without = {
        "within": "without the part across $V$",
        "none": "without any even part",
    }
    lost = _experiment("interventions").LOST
    for setting, measured in _interventions(evidence):
        for arm, said in without.items():
            kept = measured[f"{setting}-kept-{arm}"]
            yield _kept(said, setting, measured, kept, decided(kept, lost, above=False))


def cause_is_sufficient(evidence: Evidence) -> Iterator[Effect]:
    """What is kept of it where the part across acts alone, and where it is turned around."""
    alone = {
        "across": "with the part across $V$ alone",
        "drift": "with it and without oscillation",
        "reversed": "with it reversed",
    }
    enough = _experiment("interventions").KEPT
    for setting, measured in _interventions(evidence):
        for arm, said in alone.items():
            kept = measured[f"{setting}-kept-{arm}"]
            back = arm == "reversed"
            outcome = decided(kept, above=False) if back else decided(kept, enough)
            yield _kept(said, setting, measured, kept, outcome)


def _interventions(evidence: Evidence) -> Iterator[tuple[str, dict[str, Interval]]]:
    """The settings of ``interventions``, each with the effects of all."""
    for _, stored, measured in evidence.measured("interventions"):
        for setting in _experiment("interventions").settings(stored):
            yield setting, measured


def _kept(
    said: str, setting: str, measured: dict[str, Interval], kept: Interval, outcome: str
) -> Effect:
    """The share that an arm keeps; undecided where there may be too little to keep."""
    what = f"share of the flattening kept {said}{_place(setting)}"
    least = _experiment("interventions").FLATTENING
    if not measured[f"{setting}-flattening"].low > least:
        what, outcome = f"{what}; too little flattening to tell", UNDECIDED
    return Effect(what, f"{kept:.2f}", outcome)


def _place(setting: str) -> str:
    """What a setting ``<model>-<loss>-<factor>`` is called, with the data set where it is named."""
    model, loss, factor, *data = setting.split("-", 3)
    kind = {"mlp": "tanh MLP", "cnn": "CNN"}[model]
    said = {"mse": "squared loss", "cross_entropy": "cross-entropy"}[loss]
    return _named(kind, said, f"$c = {factor}$", *data)


def averaged(evidence: Evidence) -> Iterator[Effect]:
    """How far gradient descent is from its central flow, over how far from the gradient flow."""
    average = _experiment("average")
    for _, _, measured in evidence.measured("average"):
        for name, ratio in measured.items():
            network, loss, quantity = name.split("-")
            if quantity not in average.QUANTITIES:
                continue
            said = {"mse": "squared loss", "cross_entropy": "cross-entropy"}[loss]
            what = f"error of the central flow over that of the gradient flow: {quantity}"
            what += _named(network.upper(), said)
            yield Effect(what, f"{ratio:.3f}", decided(ratio, average.NEARER, above=False))


def damped(evidence: Evidence) -> Iterator[Effect]:
    """How much higher the loss peaks in an episode with Adam's second moment frozen."""
    least = evidence.number("adam", "adam-higher-least")
    number = evidence.number("adam", "adam-episodes")
    what = f"least factor by which the loss peaks higher, $v$ frozen ({number:g} episodes)"
    yield Effect(what, f"{least:.1f}", least > 1)
