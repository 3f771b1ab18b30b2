"""Run a random row of a stored result again, to see that the table is what its code gives."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np

from flatminima import sweep
from study import provenance
from study.results import Experiment, Result

__all__ = ["FALSE_ALARM", "difference", "rerun"]

FALSE_ALARM = 1e-5
"""How rarely, for one value, a true rerun may fall outside the spread of the stored seeds."""


def rerun(
    experiment: Experiment, configs: Sequence[object], result: Result, rng: np.random.Generator
) -> list[str]:
    """Run a random row of a stored result, of that grid, again and say where the two differ.

    Returns:
        One line for each difference; none if all is well. A row of a GPU that is rerun without
        one is rerun on the CPU.

    Raises:
        ValueError: if the rows are not those of the grid, or a value has no tolerance.
    """
    fields = [sweep.fields_of(config) for config in configs]
    rows = result.table.to_pylist()
    if result.provenance.get("left"):
        # Of a grid of which some runs are still to be made.
        made = [{key: row.get(key) for key in fields[0]} for row in rows]
        configs = [c for c, f in zip(configs, fields, strict=True) if f in made]
        fields = [f for f in fields if f in made]
    kept = [{key: row[key] for key in f} for f, row in zip(fields, rows, strict=False)]
    if kept != fields or len(rows) != len(fields):
        raise ValueError(f"the rows of {experiment.name} are not those of its grid: make it anew")
    index = int(rng.integers(len(rows)))
    row, config = rows[index], _on_what_there_is(configs[index])
    with _one_thread():
        again = sweep.perform(experiment.part or experiment.function, config)
    alike = [{key: value for key, value in f.items() if key != "seed"} for f in fields]
    peers = [r for f, r in zip(alike, rows, strict=True) if f == alike[index]]
    found = {"status": again.status, **again.values}
    unsteady = "spread" in experiment.tolerances.values()
    tolerances = {"status": "spread" if unsteady else 0.0, **experiment.tolerances}
    if experiment.part is not None and again.status == "done":
        del found["status"]  # A part may end before the run as a whole diverges.
    lines = []
    for name, value in found.items():
        if name not in tolerances:
            raise ValueError(f"{experiment.name} must state a tolerance for {name!r}")
        complaint = difference(row[name], value, [p[name] for p in peers], tolerances[name])
        if complaint:
            lines.append(f"{name} of {config}: {complaint} ({again.error or again.device})")
    return lines


def difference(
    kept: object, value: object, peers: list, tolerance: float | Literal["spread"]
) -> str | None:
    """What is wrong with a rerun's value, against the one kept or its peers, or None.

    A value with a relative tolerance must agree within it. A value whose tolerance is "spread" must
    lie, if it is a number, in the interval in which a further normal draw lies with probability
    1 - FALSE_ALARM, given the peers, those of the stored rows that differ from this one in their
    seed alone: their mean plus or minus t s sqrt(1 + 1/n); anything else must be among them.
    """
    if tolerance != "spread":
        try:
            np.testing.assert_allclose(
                np.array(value), np.array(kept), rtol=tolerance, atol=0, equal_nan=False
            )
        except (AssertionError, TypeError, ValueError):
            if value != kept:
                return f"stored {kept!r}, now {value!r}, relative tolerance {tolerance:g}"
        return None
    numbers = [p for p in peers if isinstance(p, int | float) and not isinstance(p, bool)]
    if isinstance(value, bool) or not isinstance(value, int | float) or len(numbers) < 3:
        return None if value in peers else f"now {value!r}, but stored {peers!r}"
    from scipy import stats

    n, mean, spread = len(numbers), np.mean(numbers), np.std(numbers, ddof=1)
    width = stats.t.ppf(1 - FALSE_ALARM / 2, n - 1) * spread * np.sqrt(1 + 1 / n)
    if abs(value - mean) <= width or value in peers:
        return None
    return f"now {value!r}, outside {mean:.6g} +- {width:.6g} of the {n} stored seeds"


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for PyTorch, as a sweep's processes have: another number sums in another order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _on_what_there_is(config: object) -> object:
    if str(getattr(config, "device", "")).startswith("cuda") and not provenance.gpu_available():
        return replace(config, device="cpu")
    return config
