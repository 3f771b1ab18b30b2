"""The effects that part three reports, each computed in one place from the runs of an experiment.

`flatness`, `comparison`, `sgd` and `adam` take the stored result of the experiment of that name
(the rows of one data set and one kind of network) and return its effects by name, as intervals over
the seeds. The chapters show these numbers and the table of claims judges them, so that the two
cannot differ. The functions whose names end in ``_predictions`` say which of the predictions that
a chapter states beforehand are borne out; a test checks that they fail where there is no effect.

A run that diverged or did not come to the common loss has no value at it and is left out, in a
comparison of pairs together with its partner.
"""

from __future__ import annotations

import sys

import numpy as np

from flatminima.statistics import Interval, bootstrap_interval, contrast, rank_correlation
from study import results
from study.results import Result

__all__ = [
    "FEWEST",
    "MATCHED",
    "MEASURES",
    "PAIRS",
    "SgdCells",
    "adam",
    "at_matched_loss",
    "comparison",
    "comparison_predictions",
    "flatness",
    "flatness_predictions",
    "of_method",
    "sgd",
    "sgd_predictions",
]

MEASURES = (
    "sharpness",
    "trace",
    "adaptive_sharpness",
    "average_sharpness",
    "relative_flatness",
)
MATCHED = 0.01
"""A run of the SGD experiment counts if its loss is within this share of the target."""
STABLE, NAMED = 0.5, 2.0
"""The factors c of the flatness experiment between which accuracy was to be compared."""
PAIRS = {"rate": ("gd-large", "gd-small"), "init": ("gd-small-init", "gd-large-init")}
"""The two comparisons of the experiment ``comparison``: the first minus the second."""
FEWEST = 3
"""Seeds that an interval needs."""


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _interval(samples: np.ndarray) -> Interval:
    return bootstrap_interval(samples[np.isfinite(samples)], _rng())


def _within_seeds(x: np.ndarray, y: np.ndarray) -> Interval:
    """Rank correlation over the conditions of a seed; 0 where one does not depend on them."""
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=1) for values in (x, y)]
    if any(np.ptp(r) == 0 for r in ranks):
        return Interval(0.0, 0.0, 0.0)
    return rank_correlation(*ranks, _rng())


def at_matched_loss(stored: Result, value: str) -> np.ndarray:
    """A column of the flatness experiment, (seeds, factors); NaN where the target was missed."""
    reached = np.nan_to_num(stored.pivot("reached", "seed", "factor")).astype(bool)
    return np.where(reached, stored.pivot(value, "seed", "factor"), np.nan)


def flatness(stored: Result) -> dict[str, Interval]:
    """The effects of a stretch at the factor c times 2/lambda_1.

    Returns:
        For each of MEASURES its difference of logarithms, c > 1 minus c < 1;
        ``sharpness_difference``, the same of the sharpness itself;
        ``gain-<c>``, test accuracy at c minus that at STABLE, for each c with FEWEST seeds or more;
        ``fall``, test accuracy at the last such c minus that at NAMED;
        ``budget``, the rank correlation of instability budget and final sharpness within a seed:
        over all runs, a seed that begins sharper also spends less, whatever the factor;
        ``link``, that of test accuracy and final sharpness over all runs. Both are over the factors
        at which every seed reached the loss.

    Raises:
        ValueError: if a comparison has fewer than FEWEST seeds.
    """
    factors = np.unique(stored["factor"])
    treated = factors > 1

    def change(values: np.ndarray) -> Interval:
        sides = [np.isfinite(values[:, side]).any(axis=1) for side in (treated, ~treated)]
        return contrast(values[sides[0] & sides[1]], treated, _rng())

    found = {name: change(np.log(at_matched_loss(stored, name))) for name in MEASURES}
    found["sharpness_difference"] = change(at_matched_loss(stored, "sharpness"))
    accuracy = at_matched_loss(stored, "test_accuracy")
    at = dict(zip(factors.tolist(), accuracy.T, strict=True))
    enough = [c for c in at if np.isfinite(at[c] - at[STABLE]).sum() >= FEWEST]
    if NAMED not in enough:
        raise ValueError(f"at least {FEWEST} seeds must reach the loss at c = {STABLE} and {NAMED}")
    found |= {f"gain-{c:g}": _interval(at[c] - at[STABLE]) for c in enough if c != STABLE}
    found["fall"] = _interval(at[max(enough)] - at[NAMED])
    sharpness, budget = (at_matched_loss(stored, name) for name in ("sharpness", "budget"))
    whole = np.isfinite(sharpness).all(axis=0)
    found["budget"] = _within_seeds(budget[:, whole], sharpness[:, whole])
    found["link"] = rank_correlation(accuracy[:, whole], sharpness[:, whole], _rng())
    return found


def flatness_predictions(stored: Result) -> dict[str, bool]:
    """Flatter past the edge; more accurate at NAMED; paid for by the budget; an upper end."""
    found = flatness(stored)
    largest = stored.where(factor=float(np.max(stored["factor"])))
    return {
        "flatter": found["sharpness_difference"].high < 0,
        "accurate": found[f"gain-{NAMED:g}"].low > 0,
        "paid": found["budget"].high < 0,
        "ends": bool(np.any(largest["status"] == "diverged")),
    }


def of_method(stored: Result, value: str, architecture: str, method: str) -> np.ndarray:
    """One value a seed of the experiment ``comparison``, NaN where the target was missed."""
    rows = stored.where(architecture=architecture, method=method)
    reached = np.array([r is not None and r == 1 for r in rows["reached"]], dtype=bool)
    values = np.where(reached, rows[value].astype(float), np.nan)
    return values[np.argsort(rows["seed"])]


def comparison(stored: Result) -> dict[str, Interval]:
    """The effects over ways of training.

    Returns:
        ``<pair>-<architecture>-<value>`` for PAIRS and the values sharpness and test_accuracy: the
        mean difference over the seeds;
        ``rho-<architecture>-<measure>``: the rank correlation of the measure with test accuracy
        over all ways of training and the seeds that have them all.

    Raises:
        ValueError: if a comparison has fewer than FEWEST seeds.
    """
    architectures = list(dict.fromkeys(stored["architecture"].tolist()))
    methods = sorted(set(stored["method"].tolist()))
    found = {}
    for name in architectures:
        for pair, (one, other) in PAIRS.items():
            for value in ("sharpness", "test_accuracy"):
                first, second = (of_method(stored, value, name, m) for m in (one, other))
                found[f"{pair}-{name}-{value}"] = _interval(first - second)
        for measure in MEASURES:
            x, y = (
                np.array([of_method(stored, value, name, m) for m in methods]).T
                for value in (measure, "test_accuracy")
            )
            kept = np.isfinite(x).all(axis=1)
            found[f"rho-{name}-{measure}"] = rank_correlation(x[kept], y[kept], _rng())
    return found


def comparison_predictions(stored: Result) -> dict[str, bool]:
    """What held in every architecture.

    ``rate-flatter``, ``rate-better``: the large rate ends flatter, and more accurate;
    ``init-better``: small initial weights are more accurate; ``init-sharper``: and they are
    sharper in at least one architecture; ``ranks-<measure>``: its rank correlation with test
    accuracy has its interval below zero.
    """
    found = comparison(stored)
    architectures = set(stored["architecture"].tolist())

    def each(prefix: str, value: str) -> list[Interval]:
        return [found[f"{prefix}-{name}-{value}"] for name in architectures]

    held = {
        "rate-flatter": all(e.high < 0 for e in each("rate", "sharpness")),
        "rate-better": all(e.low > 0 for e in each("rate", "test_accuracy")),
        "init-better": all(e.low > 0 for e in each("init", "test_accuracy")),
        "init-sharper": any(e.low > 0 for e in each("init", "sharpness")),
    }
    return held | {f"ranks-{m}": all(e.high < 0 for e in each("rho", m)) for m in MEASURES}


class SgdCells:
    """The cells of the experiment ``sgd``, for the seeds all of whose runs are matched in loss.

    Attributes:
        seeds: all seeds; ``kept`` those that are used.
        small, control: the small rate, and the half of it.
        large: the large rates, ascending.
        batches: the sizes of the minibatches, ascending.
        steps, longer: updates of the second stage, and of the long run of noise.
        label_noise: the standard deviation of the noise on the labels.

    Raises:
        ValueError: if fewer than FEWEST seeds are matched.
    """

    def __init__(self, stored: Result) -> None:
        bad = (stored["status"] != "done") | ~(np.abs(stored["undershoot"].astype(float)) < MATCHED)
        self._stored = stored
        self.seeds = np.unique(stored["seed"])
        self.kept = [seed for seed in self.seeds if not bad[stored["seed"] == seed].any()]
        if len(self.kept) < FEWEST:
            raise ValueError(
                f"at least {FEWEST} seeds must end within {MATCHED:.0%} of the target loss in all "
                f"their runs, got {len(self.kept)} of {len(self.seeds)}"
            )
        self.small, self.control = float(stored["small_rate"][0]), float(np.min(stored["rate"]))
        self.large = [float(rate) for rate in np.unique(stored["rate"]) if rate > self.small]
        self.batches = [int(batch) for batch in np.unique(stored["batch"]) if batch > 0]
        self.steps, self.longer = (int(f(stored["steps"])) for f in (np.min, np.max))
        self.label_noise = float(np.max(stored["label_noise"]))

    def __call__(
        self,
        quantity: str,
        rate: float,
        batch: int = 0,
        steps: int | None = None,
        label_noise: float = 0.0,
    ) -> np.ndarray:
        """One value for each seed in ``kept``."""
        cell = {"rate": rate, "batch": batch, "label_noise": label_noise}
        rows = self._stored.where(steps=steps or self.steps, **cell)
        return np.array([rows.where(seed=s)[quantity][0] for s in self.kept], dtype=float)

    def fall(self, rate: float, batch: int = 0, **options: object) -> np.ndarray:
        """Flattening against the stable cell: the fall of log sharpness, for each seed."""
        stable = self("sharpness", self.small)
        return np.log(stable / self("sharpness", rate, batch, **options))


def sgd(stored: Result) -> dict[str, Interval]:
    """The effects of instability and of noise on the logarithm of the sharpness; flatter is more.

    Returns:
        ``<rate>-<batch>-<part>`` for each large rate and batch size, with the parts instability,
        noise, interaction, difference (instability minus noise) and persists (the fall from the
        small rate to this one, both in minibatches);
        ``control``, half the small rate; ``long``, noise for as much training time; ``label``,
        label noise; with ``<rate>-long-difference`` and ``<rate>-label-difference``, instability
        minus these; ``late-<rate>-<batch>``, the late sharpness over 2/eta.

    Raises:
        ValueError: as `SgdCells`.
    """
    cells = SgdCells(stored)
    samples = {
        "control": cells.fall(cells.control),
        "long": cells.fall(cells.small, min(cells.batches), steps=cells.longer),
        "label": cells.fall(cells.small, label_noise=cells.label_noise),
    }
    for rate in cells.large:
        instability = cells.fall(rate)
        for name in ("long", "label"):
            samples[f"{rate:g}-{name}-difference"] = instability - samples[name]
        for batch in cells.batches:
            noise, both = cells.fall(cells.small, batch), cells.fall(rate, batch)
            samples |= {
                f"{rate:g}-{batch}-instability": instability,
                f"{rate:g}-{batch}-noise": noise,
                f"{rate:g}-{batch}-interaction": both - instability - noise,
                f"{rate:g}-{batch}-difference": instability - noise,
                f"{rate:g}-{batch}-persists": both - noise,
            }
        for batch in (0, *cells.batches):
            late = cells("late_sharpness", rate, batch)
            samples[f"late-{rate:g}-{batch}"] = late * rate / 2
    return {name: _interval(values) for name, values in samples.items()}


def sgd_predictions(stored: Result) -> dict[str, bool]:
    """What the design of the experiment needs, and what was predicted.

    ``control``: half the small rate ends at the same sharpness, in every seed. (Either loss is off
    the target by a share of MATCHED at most, and the sharpness changes less than in proportion.)
    ``noise-alone``: noise at the small rate stays well below the full-batch edge.
    ``past-the-edge``: the largest rate begins beyond it. ``stable-cooling``: the last stage does
    not flatten. ``outweighs-<batch>``: instability minus noise at the largest rate has its interval
    above zero. ``edge-<rate>``: under SGD the late sharpness is below 2/eta, in every seed.
    """
    cells, found = SgdCells(stored), sgd(stored)
    highest = [cells("highest_sharpness", cells.small, batch) for batch in cells.batches]
    top = max(cells.large)
    held = {
        "control": np.all(np.abs(cells.fall(cells.control)) < 2 * MATCHED),
        "noise-alone": np.all(np.array(highest) < 0.9 * 2 / cells.small),
        "past-the-edge": np.all(cells("start_sharpness", top) > 2 / top),
        "stable-cooling": np.nanmax(stored["sharpness"].astype(float)) < 2 / cells.small,
    }
    for batch in cells.batches:
        held[f"outweighs-{batch}"] = found[f"{top:g}-{batch}-difference"].low > 0
    for rate in cells.large:
        late = [cells("late_sharpness", rate, batch) for batch in cells.batches]
        held[f"edge-{rate:g}"] = np.all(np.array(late) * rate / 2 < 1)
    return {name: bool(value) for name, value in held.items()}


def adam(stored: Result) -> dict[str, Interval]:
    """The variants of clipped Adam, and gradient descent, against Adam, each at its tuned setting.

    Returns:
        ``flatter-<method>``: mean of the logarithm of Adam's sharpness over that of the method;
        ``accuracy-<method>``: mean of its test accuracy minus Adam's. The intervals are by
        Student's t, those of the variants at the joint level of 95 percent (``compare`` in
        ``study/experiments/adam.py``). A method that no setting brought to the target is left out.

    Raises:
        ValueError: as ``compare``.
    """
    module = sys.modules[results.experiment("adam").function.__module__]
    found = {}
    for c in (*module.compare(stored, module.VARIANTS), *module.compare(stored, ["gd"])):
        found[f"flatter-{c.method}"] = Interval(c.flatness, *c.flatness_interval)
        found[f"accuracy-{c.method}"] = Interval(c.accuracy, *c.accuracy_interval)
    return found
