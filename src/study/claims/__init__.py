"""What was reproduced: each claim with its measured effects, and a verdict by a stated criterion.

A claim is judged by *effects*. Each is a number, with an interval where seeds were repeated, and
the answer to one question: does it have the sign (or the size) that the claim says? The question,
the claim's criterion, is that of the chapter that shows it. The claim is ``reproduced`` if all its
effects do, ``not reproduced`` if none does, and ``partly`` reproduced in between. Effects are
computed from the stored results, or are the numbers that an executed chapter put into its text; a
claim whose evidence is missing raises `MissingEvidenceError` and never passes for anything.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from flatminima import sweep
from flatminima.statistics import Interval
from study import effects, presets, results
from study.results import Result

__all__ = [
    "ARCHITECTURES",
    "CLAIMS",
    "LARGE_PRESETS",
    "MEASURES",
    "NETWORKS",
    "REPEATS",
    "VERDICTS",
    "Claim",
    "Effect",
    "Evidence",
    "Finding",
    "MissingEvidenceError",
    "combined",
    "glued_numbers",
    "judge",
    "judge_all",
    "parse_interval",
    "parse_number",
    "verdict",
]

REPRODUCED, PARTLY, NOT, UNTESTED = "reproduced", "partly", "not reproduced", "not tested"
VERDICTS = (REPRODUCED, PARTLY, NOT, UNTESTED)
LARGE_PRESETS = ("default", "gpu")
"""The presets whose stored results count; that of ``ci`` is for tests."""
MEASURES = {
    "sharpness": "sharpness",
    "trace": "trace of the Hessian",
    "adaptive_sharpness": "adaptive sharpness",
    "average_sharpness": "average-case sharpness",
    "relative_flatness": "relative flatness",
}
ARCHITECTURES = {"tanh": "tanh", "relu": "ReLU", "deep": "tanh, four hidden layers"}
NETWORKS = {"tanh": "tanh MLP", "relu": "ReLU MLP", "cnn": "CNN"}
REPEATS = {"flatness": ("flatness", "cifar")}
"""Experiments that put the same question to other data; the claims are judged by all of them."""
_VALUE = r"[+-]?\d+(?:\.\d+)?"
_INTERVAL = re.compile(rf"({_VALUE}) \[({_VALUE}), ({_VALUE})\]")
_NUMBER = re.compile(rf"({_VALUE})(%| × 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?")
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


class MissingEvidenceError(LookupError):
    """A number that a claim rests on is not there; the message says what makes it."""


class Effect(NamedTuple):
    """One number that a claim is judged by.

    Attributes:
        what: what was measured, in what unit.
        value: the number, with its interval where there is one.
        met: whether it has the sign, or the size, that the claim says.
    """

    what: str
    value: str
    met: bool


@dataclass(frozen=True)
class Claim:
    """A claim with the criterion it is judged by.

    Attributes:
        key: its short name.
        part: which of the paper's five claims it belongs to.
        statement: what is claimed, in MyST.
        criterion: when an effect counts as met.
        shown: (document, label of a figure or statement) of where the book shows it.
        ours: whether the claim, or its exact form, is this book's and not the paper's.
        measure: evidence -> its effects; None for a claim that the book does not test.
        headline: the index of the effect that stands for the claim where there is room for one.
    """

    key: str
    part: int
    statement: str
    criterion: str
    shown: tuple[str, str]
    ours: bool
    measure: Callable[[Evidence], list[Effect]] | None
    headline: int = 0


@dataclass(frozen=True)
class Finding:
    """A claim, its effects, and what made them (preset and device)."""

    claim: Claim
    effects: tuple[Effect, ...]
    made_by: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """``reproduced``, ``partly``, ``not reproduced`` or ``not tested``."""
        return UNTESTED if self.claim.measure is None else verdict(self.effects)


def verdict(measured: Sequence[Effect]) -> str:
    """``reproduced`` if all effects are met, ``not reproduced`` if none, ``partly`` in between.

    Raises:
        MissingEvidenceError: without any effect: nothing measured is no evidence.
    """
    if not measured:
        raise MissingEvidenceError("a verdict needs at least one effect, got none")
    met = [effect.met for effect in measured]
    return REPRODUCED if all(met) else PARTLY if any(met) else NOT


def combined(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its parts; parts that were not tested do not count."""
    tested = {v for v in verdicts if v != UNTESTED}
    if not tested:
        return UNTESTED
    return tested.pop() if len(tested) == 1 else PARTLY


@dataclass
class Evidence:
    """Where the effects come from, and a list of what was used.

    Attributes:
        glued: document -> name -> text of the numbers that the executed chapter shows.
        proved: label of a theorem -> names of the tests that check it.
        load: (name, preset) -> stored result, as `results.load`.
        used: what made the numbers asked for so far.
    """

    glued: Mapping[str, Mapping[str, str]]
    proved: Mapping[str, Sequence[str]] = field(default_factory=dict)
    load: Callable[[str, str], Result] = results.load
    used: list[str] = field(default_factory=list)
    _computed: dict[str, dict[str, Interval]] = field(default_factory=dict)

    def for_one_claim(self) -> Evidence:
        """The same evidence with a list of its own of what is used; what was computed is shared."""
        return Evidence(self.glued, self.proved, self.load, [], self._computed)

    def text(self, document: str, name: str) -> str:
        """A number as the executed chapter shows it.

        Raises:
            MissingEvidenceError: if the chapter has not put it there.
        """
        try:
            found = self.glued[document][name]
        except KeyError:
            raise MissingEvidenceError(
                f"the number {name!r} of chapters/{document}.ipynb is missing: execute the chapter "
                "with `make book`, or mend the claim that asks for it"
            ) from None
        self._note(f"preset {presets.current()}, {sweep._device_name('cpu')}, in the chapter")
        return found

    def number(self, document: str, name: str) -> float:
        """The same as a number; a percentage as a fraction."""
        return parse_number(self.text(document, name))

    def interval(self, document: str, name: str) -> Interval:
        """The same as a number with its interval, in the unit it is shown in."""
        return parse_interval(self.text(document, name))

    def settings(self, name: str) -> list[tuple[str, Result]]:
        """The stored result and its repeats, one part for each data set and network, with its name.

        The name is what tells a part from the others, and empty if there is one only.

        Raises:
            MissingEvidenceError: if the experiment is not stored at the default preset.
            CorruptResultError: as `results.load`.
        """
        found = [part for stored in self.stored(name) for part in _split(stored)]
        return found if len(found) > 1 else [("", found[0][1])]

    def stored(self, name: str) -> list[Result]:
        """The stored result and its repeats at each preset that counts.

        Raises:
            MissingEvidenceError, CorruptResultError: as `settings`.
        """
        found = []
        for one, preset in itertools.product(REPEATS.get(name, (name,)), LARGE_PRESETS):
            try:
                stored = self.load(one, preset)
            except results.MissingResultError as error:
                if preset == "default":
                    raise MissingEvidenceError(str(error)) from error
                continue
            self._note(f"preset {preset}, {' and '.join(stored.provenance['devices'])}")
            found.append(stored)
        return found

    def measured(self, name: str) -> list[tuple[str, Result, dict[str, Interval]]]:
        """The same, each part with its effects, as the function of that name in `effects` has them.

        Raises:
            MissingEvidenceError, CorruptResultError: as `settings`.
            ValueError: if a comparison has too few seeds.
        """
        found = []
        for number, (setting, stored) in enumerate(self.settings(name)):
            key = f"{name} {number}"
            if key not in self._computed:
                self._computed[key] = getattr(effects, name)(stored)
            found.append((setting, stored, self._computed[key]))
        return found

    def tests(self, label: str) -> Sequence[str]:
        """The tests of a proved statement.

        Raises:
            MissingEvidenceError: if it is not proved, or no test checks it.
        """
        if not self.proved.get(label):
            raise MissingEvidenceError(f"{label} must be proved in a chapter and have tests")
        self._note("proof")
        return self.proved[label]

    def _note(self, source: str) -> None:
        if source not in self.used:
            self.used.append(source)


def parse_number(text: str) -> float:
    """A number as `plotting.glue_number` writes it: ``−0.9``, ``38%``, ``7.8 × 10⁻⁷``.

    Raises:
        ValueError: for any other text.
    """
    found = _NUMBER.fullmatch(text.replace("−", "-"))
    if not found:
        raise ValueError(f"expected a number, got {text!r}")
    value, unit, power = found.groups()
    if power:
        return float(f"{value}e{power.translate(_RAISED)}")
    return float(value) / 100 if unit else float(value)


def parse_interval(text: str) -> Interval:
    """An interval as `statistics.Interval` writes it: ``−0.96 [−0.99, −0.94]``.

    Raises:
        ValueError: for any other text, or ends that do not enclose the value.
    """
    found = _INTERVAL.fullmatch(text.replace("−", "-"))
    if not found:
        raise ValueError(f"expected value [low, high], got {text!r}")
    interval = Interval(*map(float, found.groups()))
    if not interval.low <= interval.value <= interval.high:
        raise ValueError(f"the interval must enclose the value, got {text!r}")
    return interval


def glued_numbers(chapters: Path) -> dict[str, dict[str, str]]:
    """Document -> name -> text of every number in the outputs of the notebooks in a folder."""
    found = {}
    for path in sorted(Path(chapters).glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [o for c in cells if c["cell_type"] == "code" for o in c.get("outputs", [])]
        found[path.stem] = {
            output["metadata"]["scrapbook"]["name"]: ast.literal_eval("".join(text))
            for output in outputs
            if "scrapbook" in output.get("metadata", {})
            for kind, text in output["data"].items()
            if kind.endswith("text/plain")
        }
    return found


def judge(claim: Claim, evidence: Evidence) -> Finding:
    """Measure the effects of a claim.

    Raises:
        MissingEvidenceError: if a number is missing; the message names the claim.
    """
    own = evidence.for_one_claim()
    if claim.measure is None:
        return Finding(claim, (), ())
    try:
        measured = tuple(claim.measure(own))
        verdict(measured)
    except (MissingEvidenceError, KeyError, ValueError) as error:
        if isinstance(error, results.CorruptResultError):
            raise
        raise MissingEvidenceError(f"claim {claim.key!r}: {error}") from error
    return Finding(claim, measured, tuple(own.used))


def judge_all(evidence: Evidence) -> list[Finding]:
    """All findings, in the order of `CLAIMS`."""
    return [judge(claim, evidence) for claim in CLAIMS]


# --- how the effects are computed; each follows the chapter that shows it


def _split(stored: Result) -> list[tuple[str, Result]]:
    """The parts of a result that differ in data set, network or width, each with a name."""
    fields = [c for c in ("dataset", "model", "width") if c in stored.columns]
    places = dict.fromkeys(zip(*(stored[c].tolist() for c in fields), strict=True))
    parts = []
    for place in places:
        part = stored.where(**dict(zip(fields, place, strict=True)))
        data = {
            "fashion-mnist-subset": "Fashion-MNIST subset",
            "cifar10": "CIFAR-10",
            "cifar10-subset": "CIFAR-10 subset",
        }
        names = [data.get(str(place[0]), str(place[0])), *(str(p) for p in place[1:-1])]
        parts.append((", ".join(names), part))
    return parts


def _named(*parts: str) -> str:
    """What tells an effect from the others of its claim, in parentheses."""
    kept = [part for part in parts if part]
    return f" ({', '.join(kept)})" if kept else ""


def _percent(interval: Interval) -> str:
    """A difference of logarithms as a change in percent."""
    return format(Interval(*(100 * np.expm1(part) for part in interval)), "+.0f") + " %"


def _points(interval: Interval) -> str:
    """A difference of accuracies in percentage points."""
    return format(Interval(*(100 * part for part in interval)), "+.1f") + " points"


def _number(text: str) -> str:
    return text.replace("-", "−")


def _flatter(evidence: Evidence) -> list[Effect]:
    found = []
    for setting, _, measured in evidence.measured("flatness"):
        for column, name in MEASURES.items():
            what = f"{name}, $c > 1$ against $c < 1${_named(setting)}"
            found.append(Effect(what, _percent(measured[column]), measured[column].high < 0))
    return found


def _more_accurate(evidence: Evidence) -> list[Effect]:
    found = []
    for setting, _, measured in evidence.measured("flatness"):
        gain = measured[f"gain-{effects.NAMED:g}"]
        what = f"test accuracy at $c = {effects.NAMED:g}$ minus that at $c = {effects.STABLE:g}$"
        found.append(Effect(what + _named(setting), _points(gain), gain.low > 0))
    return found


def _ends(evidence: Evidence) -> list[Effect]:
    found = []
    for setting, stored, measured in evidence.measured("flatness"):
        largest = float(np.max(stored["factor"]))
        survived = float(np.mean(stored.where(factor=largest)["status"] == "done"))
        what = f"runs that survive at $c = {largest:g}${_named(setting)}"
        found.append(Effect(what, f"{100 * survived:.0f} %", survived < 1))
        last = max(float(name[5:]) for name in measured if name.startswith("gain-"))
        what = f"accuracy at $c = {last:g}$ minus that at $c = {effects.NAMED:g}$"
        fall = measured["fall"]
        found.append(Effect(what + _named(setting), _points(fall), fall.high < 0))
    return found


def _budget(evidence: Evidence) -> list[Effect]:
    found = []
    for setting, _, measured in evidence.measured("flatness"):
        paid = measured["budget"]
        what = f"rank correlation of budget and final sharpness{_named(setting)}"
        found.append(Effect(what, f"{paid:.2f}", paid.high < 0))
    return found


def _reflected(evidence: Evidence) -> list[Effect]:
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


def _beyond(evidence: Evidence) -> list[Effect]:
    found = []
    for setting, stored, measured in evidence.measured("comparison"):
        for name in dict.fromkeys(stored["architecture"].tolist()):
            gain = measured[f"rate-{name}-test_accuracy"]
            what = "accuracy, rate beyond minus rate below the edge"
            what += _named(ARCHITECTURES.get(name, name), setting)
            found.append(Effect(what, _points(gain), gain.low > 0))
    return found


def _ranks(measure: str) -> Callable[[Evidence], list[Effect]]:
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


def _sgd(part: str, what: str) -> Callable[[Evidence], list[Effect]]:
    """One part of the decomposition, for each large rate and batch size, the largest rate first."""

    def parts(evidence: Evidence) -> list[Effect]:
        found = []
        for setting, stored, measured in evidence.measured("sgd"):
            cells = effects.SgdCells(stored)
            for rate in reversed(cells.large):
                for batch in cells.batches:
                    value = measured[f"{rate:g}-{batch}-{part}"]
                    said = what.format(rate=rate, batch=batch) + _named(setting)
                    found.append(Effect(said, f"{value:.2f}", value.low > 0))
        return found

    return parts


def _outweighs_in_time(evidence: Evidence) -> list[Effect]:
    found = []
    for setting, stored, measured in evidence.measured("sgd"):
        cells = effects.SgdCells(stored)
        for rate in reversed(cells.large):
            more = measured[f"{rate:g}-long-difference"]
            what = f"instability at {rate:g} minus noise over {cells.longer:,} updates"
            found.append(Effect(what + _named(setting), f"{more:.2f}", more.low > 0))
    return found


def _adam(kind: str) -> Callable[[Evidence], list[Effect]]:
    """Adam's variants against Adam, without gradient descent, which restores nothing in Adam."""

    def variants(evidence: Evidence) -> list[Effect]:
        found = []
        for setting, _, measured in evidence.measured("adam"):
            for name, value in measured.items():
                method = name.removeprefix(f"{kind}-")
                if method in (name, "gd"):
                    continue
                if kind == "flatter":
                    said = f"{Interval(*np.exp(value)):.2f}"
                    what = f"sharpness of Adam over that of `{method}`"
                else:
                    said, what = _points(value), f"test accuracy of `{method}` minus that of Adam"
                found.append(Effect(what + _named(setting), said, value.low > 0))
        return found

    return variants


def _experiment(name: str) -> ModuleType:
    """The module of an experiment, with the criteria that its chapter uses."""
    return sys.modules[results.experiment(name).function.__module__]


def _monotone(evidence: Evidence) -> list[Effect]:
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


def _edge(evidence: Evidence) -> list[Effect]:
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


def _polarity(evidence: Evidence) -> list[Effect]:
    cosine = evidence.number("episodes_and_rotation", "epi-cosine")
    what = "mean cosine of the rotations of $v_1$ at $+x$ and $-x$, $x = 0.001$"
    return [Effect(what, _number(f"{cosine:.4f}"), cosine < -0.9)]


def _polarity_size(evidence: Evidence) -> list[Effect]:
    found = []
    places = {
        "epi-deviation": "$x = 0.001$",
        "epi-deviation-10": "$x = 0.01$, as far as at the edge",
    }
    for name, place in places.items():
        error = evidence.number("episodes_and_rotation", name)
        what = f"median relative error of the predicted rotation, {place}"
        found.append(Effect(what, f"{100 * error:.3g} %", error < 0.1))
    return found


def _more_at_larger_rates(evidence: Evidence) -> list[Effect]:
    trend = evidence.interval("episodes_and_rotation", "epi-trend")
    what = "rank correlation of the rate and the overlap of the leading spaces"
    return [Effect(what, f"{trend:.2f}", trend.high < 0)]


def _negative_curvature(evidence: Evidence) -> list[Effect]:
    change = evidence.interval("episodes_and_rotation", "epi-smallest")
    what = r"change of $\lambda_{\min}$ at the peak of an episode, relative to its mean size"
    what += "; below 0 it is more negative"
    return [Effect(what, f"{change:+.0f} %", change.high < 0)]


def _without_depth(evidence: Evidence) -> list[Effect]:
    chapter = "episodes_and_rotation"
    turn, shown = (read(chapter, "epi-linear") for read in (evidence.number, evidence.text))
    network = 1 - evidence.number(chapter, "epi-overlap-stable")
    what = "one minus the overlap: linear model, and network in stable training"
    return [Effect(what, f"{shown} and {network:.2f}", turn < network / 100)]


def _proved(*labels: str) -> Callable[[Evidence], list[Effect]]:
    def statements(evidence: Evidence) -> list[Effect]:
        return [
            Effect(
                f"number of tests that check {label}, proved", f"{len(evidence.tests(label))}", True
            )
            for label in labels
        ]

    return statements


def _damping(evidence: Evidence) -> list[Effect]:
    least = evidence.number("adam", "adam-higher-least")
    number = evidence.number("adam", "adam-episodes")
    what = f"least factor by which the loss peaks higher, $v$ frozen ({number:g} episodes)"
    return [Effect(what, f"{least:.1f}", least > 1)]


CLAIMS = (
    Claim(
        "monotone",
        1,
        r"Below $2/\eta$ gradient descent is stable, and its loss falls at each step",
        "no step before the edge, and none of a stable run, raises the loss, in any seed; proofs",
        ("edge_of_stability", "fig-eos-mse"),
        False,
        _monotone,
    ),
    Claim(
        "edge",
        1,
        r"Networks train past that limit, at the edge, $\lambda_1 \approx 2/\eta$",
        r"every run arrives; its exponent is nearer to $-1$ (the threshold decides) than to 0 (it "
        r"does not), and the mean level within a quarter of $2/\eta$, in each architecture",
        ("edge_of_stability", "fig-eos-levels"),
        False,
        _edge,
    ),
    Claim(
        "beyond",
        1,
        "Networks do best beyond the limit",
        "the interval of the gain in accuracy lies above 0, in each architecture",
        ("sharpness_limits", "fig-limits-scatter"),
        False,
        _beyond,
    ),
    Claim(
        "flatter",
        2,
        "Instabilities drive training to flatter regions",
        "the interval of the change lies below 0, for each measure",
        ("goldilocks", "fig-gold-main"),
        False,
        _flatter,
    ),
    Claim(
        "accurate",
        2,
        "The flatter end generalizes better",
        "the interval of the gain at $c = 2$, named beforehand, lies above 0",
        ("goldilocks", "fig-gold-main"),
        False,
        _more_accurate,
    ),
    Claim(
        "ends",
        2,
        "The gain ends at still larger rates",
        "runs diverge at the largest $c$; from $c = 2$ to the last $c$ that most seeds survive, "
        "accuracy falls, its interval below 0",
        ("goldilocks", "fig-gold-main"),
        True,
        _ends,
    ),
    Claim(
        "budget",
        2,
        "The more instability budget was spent, the flatter the end",
        "the interval of the rank correlation lies below 0",
        ("goldilocks", "fig-gold-main"),
        True,
        _budget,
    ),
    Claim(
        "reflection",
        2,
        "The reflection law of two parameters says where an instability leaves a network",
        r"at $1 < c \le 1.5$ the law is nearer to the measurement than the threshold is",
        ("goldilocks", "fig-gold-reflection"),
        True,
        _reflected,
    ),
    Claim(
        "ranks",
        2,
        "Whatever made it flatter, the network of lower *sharpness* generalizes better",
        "the interval of the rank correlation lies below 0, in each architecture",
        ("sharpness_limits", "fig-limits-scatter"),
        True,
        _ranks("sharpness"),
    ),
    Claim(
        "ranks-adaptive",
        2,
        "The same of the *adaptive* sharpness, networks of other initial sizes among them",
        "the interval of the rank correlation lies below 0, in each architecture",
        ("sharpness_limits", "fig-limits-scatter"),
        True,
        _ranks("adaptive_sharpness"),
    ),
    Claim(
        "polarity",
        3,
        "Opposite displacements turn $v_1$ in opposite senses",
        "the cosine is below $-0.9$",
        ("episodes_and_rotation", "fig-epi-polarity"),
        True,
        _polarity,
    ),
    Claim(
        "polarity-size",
        3,
        "The first order predicts by how much $v_1$ turns",
        "the error is below 10 % (a bound set for this table)",
        ("episodes_and_rotation", "fig-epi-polarity"),
        True,
        _polarity_size,
        headline=1,
    ),
    Claim(
        "rates",
        3,
        "The leading eigenvectors turn more at larger learning rates",
        "the interval of the rank correlation lies below 0",
        ("episodes_and_rotation", "fig-epi-turn"),
        False,
        _more_at_larger_rates,
    ),
    Claim(
        "negative",
        3,
        r"$\lvert\lambda_{\min}\rvert$ grows during an instability",
        "the interval of the change lies below 0",
        ("episodes_and_rotation", "fig-epi-average"),
        False,
        _negative_curvature,
    ),
    Claim(
        "no-depth",
        3,
        "Without depth nothing turns",
        "the linear model turns less than a hundredth of what the network does in stable training "
        "(a bound set for this table)",
        ("episodes_and_rotation", "fig-epi-turn"),
        True,
        _without_depth,
    ),
    Claim(
        "proof",
        3,
        "The rotation provably leads to flatter minima (here: at depth two, exactly; in general, "
        "to leading order)",
        "the statements are proved in the book, and tests check them",
        ("flatness_bias", "thm-D7"),
        False,
        _proved("D7", "G3"),
    ),
    Claim(
        "exploration",
        3,
        "The rotation promotes exploration",
        "the book measures how far eigenvectors turn, and not what is explored by that",
        ("episodes_and_rotation", "fig-epi-turn"),
        False,
        None,
    ),
    Claim(
        "persists",
        4,
        "The flattening persists in SGD",
        "the interval of the fall lies above 0, for each rate and batch size",
        ("sgd_noise", "fig-sgd-effects"),
        False,
        _sgd(
            "persists",
            "fall of $\\log\\lambda_1$ from the small rate to {rate:g}, batches of {batch}",
        ),
    ),
    Claim(
        "outweighs",
        4,
        "Instability outweighs the noise of the minibatch, after as many updates",
        "the interval of instability minus noise lies above 0, for each rate and batch size",
        ("sgd_noise", "fig-sgd-effects"),
        False,
        _sgd("difference", "instability at {rate:g} minus noise of batches of {batch}"),
    ),
    Claim(
        "outweighs-in-time",
        4,
        "It does so too when the noise is given the longest training time",
        "the interval of instability minus noise lies above 0, for each rate",
        ("sgd_noise", "fig-sgd-effects"),
        True,
        _outweighs_in_time,
        headline=1,
    ),
    Claim(
        "damping",
        5,
        "Adam's second moment damps instabilities",
        "with $v$ frozen the loss peaks higher in each episode",
        ("adam", "fig-adam-damping"),
        True,
        _damping,
    ),
    Claim(
        "adam-flatter",
        5,
        "Restoring instabilities makes Adam end flatter",
        "the joint interval of the ratio lies above 1, for each variant",
        ("adam", "fig-adam-outcome"),
        True,
        _adam("flatter"),
        headline=1,
    ),
    Claim(
        "adam-accurate",
        5,
        "Restoring instabilities makes Adam generalize better",
        "the joint interval of the gain in accuracy lies above 0, for each variant",
        ("adam", "fig-adam-outcome"),
        False,
        _adam("accuracy"),
        headline=1,
    ),
)
"""Every claim, in the order of the paper's five."""
