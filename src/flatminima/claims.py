"""What was reproduced: each claim with its measured effects, and a verdict by a stated criterion.

A claim is judged by *effects*. Each is a number, with an interval where seeds were repeated, and
the answer to one question: does it have the sign (or the size) that the claim says? The question,
the claim's criterion, is that of the chapter that shows it. The claim is ``reproduced`` if all its
effects do, ``not reproduced`` if none does, and ``partly`` reproduced in between. Effects are
computed from the stored results, or are the numbers that an executed chapter put into its text; a
claim whose evidence is missing raises `MissingEvidenceError` and never passes for anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flatminima import presets, results, sweep
from flatminima.results import Result
from flatminima.statistics import Interval, bootstrap_interval, contrast, rank_correlation

REPRODUCED, PARTLY, NOT, UNTESTED = "reproduced", "partly", "not reproduced", "not tested"
VERDICTS = (REPRODUCED, PARTLY, NOT, UNTESTED)
LARGE_PRESETS = ("default", "gpu")
"""The presets whose stored results count; that of ``ci`` is for tests."""
MATCHED = 0.01
"""A run of the SGD experiment counts if its loss is within this share of the target."""
MEASURES = {
    "sharpness": "sharpness",
    "trace": "trace of the Hessian",
    "adaptive_sharpness": "adaptive sharpness",
    "average_sharpness": "average-case sharpness",
    "relative_flatness": "relative flatness",
}
ARCHITECTURES = {"tanh": "tanh", "relu": "ReLU", "deep": "tanh, four hidden layers"}
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


def verdict(effects: Sequence[Effect]) -> str:
    """``reproduced`` if all effects are met, ``not reproduced`` if none, ``partly`` in between.

    Raises:
        MissingEvidenceError: without any effect: nothing measured is no evidence.
    """
    if not effects:
        raise MissingEvidenceError("a verdict needs at least one effect, got none")
    met = [effect.met for effect in effects]
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
        self._note(f"{presets.current()}, {sweep._device_name('cpu')} (in the chapter)")
        return found

    def number(self, document: str, name: str) -> float:
        """The same as a number; a percentage as a fraction."""
        return parse_number(self.text(document, name))

    def interval(self, document: str, name: str) -> Interval:
        """The same as a number with its interval, in the unit it is shown in."""
        return parse_interval(self.text(document, name))

    def settings(self, name: str) -> list[tuple[str, Result]]:
        """The stored result, one part for each data set and network, with what tells it apart.

        The name of a part is empty if there is one only.

        Raises:
            MissingEvidenceError: if the experiment is not stored at the default preset.
            CorruptResultError: as `results.load`.
        """
        found = []
        for preset in LARGE_PRESETS:
            try:
                stored = self.load(name, preset)
            except results.MissingResultError as error:
                if preset == "default":
                    raise MissingEvidenceError(str(error)) from error
                continue
            self._note(f"{preset}, {' and '.join(stored.provenance['devices'])}")
            found += _split(stored)
        return found if len(found) > 1 else [("", found[0][1])]

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
            output["metadata"]["scrapbook"]["name"]: "".join(text)
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
    own = Evidence(evidence.glued, evidence.proved, evidence.load)
    if claim.measure is None:
        return Finding(claim, (), ())
    try:
        effects = tuple(claim.measure(own))
        verdict(effects)
    except MissingEvidenceError as error:
        raise MissingEvidenceError(f"claim {claim.key!r}: {error}") from error
    return Finding(claim, effects, tuple(own.used))


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
        data = {"fashion-mnist-subset": "Fashion-MNIST subset", "cifar10": "CIFAR-10"}
        names = [data.get(str(place[0]), str(place[0])), *(str(p) for p in place[1:-1])]
        parts.append((", ".join(names), part))
    return parts


def _named(*parts: str) -> str:
    """What tells an effect from the others of its claim, in parentheses."""
    kept = [part for part in parts if part]
    return f" ({', '.join(kept)})" if kept else ""


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _scaled(interval: Interval, scale: float) -> Interval:
    return Interval(*(scale * part for part in interval))


def _percent(interval: Interval) -> str:
    """A difference of logarithms as a change in percent."""
    return format(Interval(*(100 * np.expm1(part) for part in interval)), "+.0f") + " %"


def _reached(stored: Result, value: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of the flatness experiment, (seeds, factors), NaN where the target was missed."""
    reached = np.nan_to_num(stored.pivot("reached", "seed", "factor")).astype(bool)
    values = np.where(reached, stored.pivot(value, "seed", "factor"), np.nan)
    return values, np.unique(stored["factor"])


def _complete(values: np.ndarray, treated: np.ndarray) -> np.ndarray:
    """The seeds that have a value on both sides."""
    sides = [np.isfinite(values[:, side]).any(axis=1) for side in (treated, ~treated)]
    return values[sides[0] & sides[1]]


def _flatter(evidence: Evidence) -> list[Effect]:
    effects = []
    for setting, stored in evidence.settings("flatness"):
        for column, name in MEASURES.items():
            values, factors = _reached(stored, column)
            kept = _complete(np.log(values), factors > 1)
            change = contrast(kept, factors > 1, _rng())
            what = f"{name}, $c > 1$ against $c < 1${_named(setting, f'{len(kept)} seeds')}"
            effects.append(Effect(what, _percent(change), change.high < 0))
    return effects


def _more_accurate(evidence: Evidence) -> list[Effect]:
    effects = []
    for setting, stored in evidence.settings("flatness"):
        values, factors = _reached(stored, "test_accuracy")
        gain = 100 * (values[:, factors == 2.0] - values[:, factors == 0.5]).ravel()
        gain = bootstrap_interval(gain[np.isfinite(gain)], _rng())
        what = f"test accuracy at $c = 2$ minus that at $c = 1/2${_named(setting)}"
        effects.append(Effect(what, f"{gain:+.1f} points", gain.low > 0))
    return effects


def _ends(evidence: Evidence) -> list[Effect]:
    effects = []
    for setting, stored in evidence.settings("flatness"):
        values, factors = _reached(stored, "test_accuracy")
        survived = float(np.mean(stored.where(factor=factors[-1])["status"] == "done"))
        what = f"runs that survive at $c = {factors[-1]:g}${_named(setting)}"
        effects.append(Effect(what, f"{survived:.0%}".replace("%", " %"), survived < 1))
        last = np.flatnonzero(np.isfinite(values).sum(axis=0) > 2)[-1]
        fall = 100 * (values[:, last] - values[:, factors == 2.0].ravel())
        fall = bootstrap_interval(fall[np.isfinite(fall)], _rng())
        what = f"accuracy at $c = {factors[last]:g}$ minus that at $c = 2${_named(setting)}"
        effects.append(Effect(what, f"{fall:+.1f} points", fall.high < 0))
    return effects


def _budget(evidence: Evidence) -> list[Effect]:
    effects = []
    for setting, stored in evidence.settings("flatness"):
        sharpness, _ = _reached(stored, "sharpness")
        budget, _ = _reached(stored, "budget")
        kept = np.isfinite(sharpness).all(axis=0)
        paid = rank_correlation(budget[:, kept], sharpness[:, kept], _rng())
        what = f"rank correlation of budget and final sharpness{_named(setting)}"
        effects.append(Effect(what, f"{paid:.2f}", paid.high < 0))
    return effects


def _reflected(evidence: Evidence) -> list[Effect]:
    effects = []
    for setting, stored in evidence.settings("flatness"):
        after = stored["after_first"].astype(float) * stored["learning_rate"].astype(float) / 2
        factor = stored["factor"].astype(float)
        far = (factor >= 1.25) & np.isfinite(after)
        law, edge = (float(np.median(np.abs(after[far] - goal))) for goal in (2 - factor[far], 1.0))
        what = r"median distance of $\eta\lambda_1/2$ from the law, and from the threshold"
        effects.append(Effect(f"{what}{_named(setting)}", f"{law:.2f} and {edge:.2f}", law < edge))
    return effects


def _of_architecture(stored: Result, value: str, architecture: str, method: str) -> np.ndarray:
    """One value a seed of the comparison experiment, NaN where the target was missed."""
    rows = stored.where(architecture=architecture, method=method)
    reached = np.array([r is True or r == 1 for r in rows["reached"]], dtype=bool)
    values = np.where(reached, rows[value].astype(float), np.nan)
    return values[np.argsort(rows["seed"])]


def _beyond(evidence: Evidence) -> list[Effect]:
    effects = []
    for setting, stored in evidence.settings("comparison"):
        for name in dict.fromkeys(stored["architecture"].tolist()):
            pair = (
                _of_architecture(stored, "test_accuracy", name, m) for m in ("gd-large", "gd-small")
            )
            gap = np.subtract(*pair)
            gain = bootstrap_interval(100 * gap[np.isfinite(gap)], _rng())
            what = "accuracy, rate beyond minus rate below the edge"
            what += _named(ARCHITECTURES[name], setting)
            effects.append(Effect(what, f"{gain:+.1f} points", gain.low > 0))
    return effects


def _ranks(measure: str) -> Callable[[Evidence], list[Effect]]:
    def effects(evidence: Evidence) -> list[Effect]:
        found = []
        for setting, stored in evidence.settings("comparison"):
            methods = sorted(set(stored["method"]))
            for name in dict.fromkeys(stored["architecture"].tolist()):
                x, y = (
                    np.array([_of_architecture(stored, v, name, m) for m in methods]).T
                    for v in (measure, "test_accuracy")
                )
                kept = np.isfinite(x).all(axis=1)
                rho = rank_correlation(x[kept], y[kept], _rng())
                what = f"rank correlation with test accuracy{_named(ARCHITECTURES[name], setting)}"
                found.append(Effect(what, f"{rho:.2f}", rho.high < 0))
        return found

    return effects


class _Sgd:
    """The cells of the SGD experiment: logarithms of the sharpness at the matched loss."""

    def __init__(self, stored: Result) -> None:
        bad = (stored["status"] != "done") | ~(np.abs(stored["undershoot"].astype(float)) < MATCHED)
        seeds = np.unique(stored["seed"])
        self.kept = [s for s in seeds if not bad[stored["seed"] == s].any()]
        if len(self.kept) < 3:
            raise MissingEvidenceError("fewer than 3 seeds of the SGD experiment match in loss")
        self.stored = stored
        self.small = float(stored["small_rate"][0])
        self.large = [float(r) for r in np.unique(stored["rate"]) if r > self.small]
        self.batches = [int(b) for b in np.unique(stored["batch"]) if b > 0]
        self.steps, self.longer = (int(f(stored["steps"])) for f in (np.min, np.max))

    def log_sharpness(self, rate: float, batch: int, steps: int | None = None) -> np.ndarray:
        rows = self.stored.where(rate=rate, batch=batch, steps=steps or self.steps, label_noise=0.0)
        values = [rows.where(seed=s)["sharpness"][0] for s in self.kept]
        return np.log(np.array(values, dtype=float))

    def difference(self, flat: tuple, sharp: tuple) -> Interval:
        """How much flatter the first cell is than the second."""
        return bootstrap_interval(self.log_sharpness(*sharp) - self.log_sharpness(*flat), _rng())


def _persists(evidence: Evidence) -> list[Effect]:
    effects = []
    for setting, stored in evidence.settings("sgd"):
        cells = _Sgd(stored)
        for rate in reversed(cells.large):
            for batch in cells.batches:
                fall = cells.difference((rate, batch), (cells.small, batch))
                what = f"fall of $\\log\\lambda_1$ from the small rate to {rate:g}, batches of"
                met = fall.low > 0
                effects.append(Effect(f"{what} {batch}{_named(setting)}", f"{fall:.2f}", met))
    return effects


def _outweighs(evidence: Evidence) -> list[Effect]:
    effects = []
    for setting, stored in evidence.settings("sgd"):
        cells = _Sgd(stored)
        for rate in reversed(cells.large):
            for batch in cells.batches:
                more = cells.difference((rate, 0), (cells.small, batch))
                what = f"instability at {rate:g} minus noise of batches of {batch}"
                effects.append(Effect(f"{what}{_named(setting)}", f"{more:.2f}", more.low > 0))
    return effects


def _outweighs_in_time(evidence: Evidence) -> list[Effect]:
    effects = []
    for setting, stored in evidence.settings("sgd"):
        cells = _Sgd(stored)
        noise = (cells.small, min(cells.batches), cells.longer)
        for rate in reversed(cells.large):
            more = cells.difference((rate, 0), noise)
            what = f"instability at {rate:g} minus noise over {cells.longer:,} updates"
            effects.append(Effect(f"{what}{_named(setting)}", f"{more:.2f}", more.low > 0))
    return effects


def _adam(kind: str) -> Callable[[Evidence], list[Effect]]:
    """Adam's variants against Adam, by `compare` of the experiment."""

    def effects(evidence: Evidence) -> list[Effect]:
        module = __import__(
            results.experiment("adam").function.__module__, fromlist=["compare", "VARIANTS"]
        )
        found = []
        for setting, stored in evidence.settings("adam"):
            for c in module.compare(stored, module.VARIANTS):
                if kind == "flatter":
                    ratio = Interval(*np.exp([c.flatness, *c.flatness_interval]))
                    value, met = f"{ratio:.2f}", c.flatter == "flatter"
                    what = f"sharpness of Adam over that of `{c.method}`"
                else:
                    gain = _scaled(Interval(c.accuracy, *c.accuracy_interval), 100)
                    value, met = f"{gain:+.1f} points", c.improvement == "better"
                    what = f"test accuracy of `{c.method}` minus that of Adam"
                found.append(Effect(f"{what}{_named(setting)}", value, met))
        return found

    return effects


def _monotone(evidence: Evidence) -> list[Effect]:
    chapter, effects = "edge_of_stability", []
    for rate in ("0.06", "0.1", "0.15"):
        count = evidence.number(chapter, f"eos-{rate}-before")
        what = f"steps that raise the loss before the edge, $\\eta = {rate}$, all seeds"
        effects.append(Effect(what, f"{count:g}", count == 0))
    tests = [*evidence.tests("Q1"), *evidence.tests("Q2")]
    effects.append(Effect("proved for quadratics and smooth losses; tests", f"{len(tests)}", True))
    return effects


def _edge(evidence: Evidence) -> list[Effect]:
    chapter = "edge_of_stability"
    exponent = evidence.number(chapter, "eos-exponent")
    error = evidence.number(chapter, "eos-exponent-error")
    what = r"exponent $a$ in $\lambda_1 \propto \eta^a$ at the edge (± standard error)"
    return [Effect(what, f"{exponent:.2f} ± {error:.2f}".replace("-", "−"), exponent < -0.5)]


def _polarity(evidence: Evidence) -> list[Effect]:
    cosine = evidence.number("episodes_and_rotation", "epi-cosine")
    what = "mean cosine of the rotations of $v_1$ at $+x$ and $-x$, $x = 0.001$"
    return [Effect(what, f"{cosine:.4f}".replace("-", "−"), cosine < -0.9)]


def _polarity_size(evidence: Evidence) -> list[Effect]:
    effects = []
    places = {
        "epi-deviation": "$x = 0.001$",
        "epi-deviation-10": "$x = 0.01$, as far as at the edge",
    }
    for name, place in places.items():
        error = evidence.number("episodes_and_rotation", name)
        what = f"median relative error of the predicted rotation, {place}"
        effects.append(Effect(what, f"{100 * error:.3g} %", error < 0.1))
    return effects


def _more_at_larger_rates(evidence: Evidence) -> list[Effect]:
    trend = evidence.interval("episodes_and_rotation", "epi-trend")
    what = "rank correlation of the rate and the overlap of the leading spaces"
    return [Effect(what, f"{trend:.2f}", trend.high < 0)]


def _negative_curvature(evidence: Evidence) -> list[Effect]:
    change = evidence.interval("episodes_and_rotation", "epi-smallest")
    what = r"change of $\lambda_{\min}$ at the peak of an episode"
    return [Effect(what, f"{change:+.0f} %", change.high < 0)]


def _without_depth(evidence: Evidence) -> list[Effect]:
    chapter = "episodes_and_rotation"
    turn = evidence.number(chapter, "epi-linear")
    network = 1 - evidence.number(chapter, "epi-overlap-stable")
    what = "one minus the overlap: linear model, and network in stable training"
    return [Effect(what, f"{turn:.1e} and {network:.2f}".replace("-", "−"), turn < network / 100)]


def _proved(*labels: str) -> Callable[[Evidence], list[Effect]]:
    def effects(evidence: Evidence) -> list[Effect]:
        return [
            Effect(f"{label} is proved; tests that check it", f"{len(evidence.tests(label))}", True)
            for label in labels
        ]

    return effects


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
        "no step before the edge raises the loss, in any seed; proofs with tests",
        ("edge_of_stability", "fig-eos-mse"),
        False,
        _monotone,
    ),
    Claim(
        "edge",
        1,
        r"Networks train past that limit, at the edge, $\lambda_1 \approx 2/\eta$",
        r"the exponent is nearer to $-1$ (the threshold decides) than to 0 (it does not)",
        ("edge_of_stability", "fig-eos-mse"),
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
        "Flattening is paid for by the instability budget",
        "the interval of the rank correlation lies below 0",
        ("goldilocks", "fig-gold-main"),
        True,
        _budget,
    ),
    Claim(
        "reflection",
        2,
        "The reflection law of two parameters says where an instability leaves a network",
        "the law is nearer to the measurement than the threshold is",
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
        "The same of the *adaptive* sharpness",
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
        _persists,
    ),
    Claim(
        "outweighs",
        4,
        "Instability outweighs the noise of the minibatch, after as many updates",
        "the interval of instability minus noise lies above 0, for each rate and batch size",
        ("sgd_noise", "fig-sgd-effects"),
        False,
        _outweighs,
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
        False,
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
        _adam("accurate"),
        headline=1,
    ),
)
"""Every claim, in the order of the paper's five."""
