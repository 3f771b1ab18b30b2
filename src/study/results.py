"""Tables of finished sweeps, each with the record of how it was made; nothing is read unchecked.

``make results PRESET=default ONLY=flatness`` runs ``study/experiments/flatness.py`` and writes
``results/default/flatness.parquet``, one row a run, beside it ``flatness.json``, its
provenance. A chapter reads them back with `load`, and says with `Result.describe` which preset and
device made what it shows.
"""

import hashlib
import importlib
import io
import json
import pkgutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from flatminima import sweep
from flatminima._files import write_atomically
from flatminima._validation import one_of
from study import ROOT, experiments, presets

__all__ = [
    "FALSE_ALARM",
    "FOLDER",
    "OWN_COLUMNS",
    "RECORDED",
    "RUNS",
    "CorruptResultError",
    "Experiment",
    "MissingResultError",
    "Result",
    "command",
    "compute",
    "experiment",
    "load",
    "names",
    "recheck",
    "store",
    "stored",
]

FOLDER = ROOT / "results"
RUNS = ROOT / "_runs"
"""Where the runs of unfinished sweeps wait to be resumed."""
OWN_COLUMNS = ("status", "error", "seconds")
RECORDED = ("name", "preset", "runs", "grid", "statuses", "devices", "versions", "date", "sha256")
"""What a provenance record must hold to be one; `Result` lists all of it."""
FALSE_ALARM = 1e-5
"""How rarely, for one value, a true rerun may fall outside the spread of the stored seeds."""


class MissingResultError(FileNotFoundError):
    """There is no such stored result; the message names the command that makes it."""


class CorruptResultError(ValueError):
    """A stored result is not what its record says; the message names the command that makes it."""


@dataclass(frozen=True)
class Experiment:
    """What a module in ``study/experiments/`` registers under the name EXPERIMENT.

    Attributes:
        name: the name of the module, and of the tables.
        summary: one line that says what is measured.
        function: config -> values, as `sweep.run` takes it.
        grid: preset -> the configs. It needs no GPU to make those of the gpu preset, whose field
            ``device`` is then ``"cuda"``.
        depends_on: names of the modules that decide the result, besides the experiment's own.
        tolerances: how well a rerun must agree, for each value that ``part`` returns: a relative
            tolerance (0 for equality), or ``"spread"`` for a value that depends on the rounding of
            another processor, as all do that come after an instability: a rerun is then held to
            the spread over the stored seeds, see `recheck`.
        part: config -> some of the values of ``function``, at less cost, for the test that reruns
            a random row; None stands for ``function`` itself.
    """

    name: str
    summary: str
    function: Callable[[Any], Mapping[str, object]]
    grid: Callable[[str], Sequence[object]]
    depends_on: tuple[str, ...]
    tolerances: Mapping[str, float | Literal["spread"]]
    part: Callable[[Any], Mapping[str, object]] | None = None


@dataclass(frozen=True)
class Result:
    """A table with one row a run, in the order of the grid, and the record of how it was made.

    The columns are the fields of the config, ``status`` ("done", "diverged" or "failed"), the
    values, ``error`` (why it diverged or failed) and ``seconds`` (wall time of the run).

    Attributes:
        table: the table as pyarrow holds it; ``table.to_pandas()`` where pandas is installed.
        provenance: name, preset; ``grid`` (field of the config -> its distinct values) and
            ``seeds``; ``runs`` and ``statuses``, their numbers; ``devices``, ``versions``;
            ``seconds``, summed over the runs; ``started``, ``date`` (UTC) of the first run and of
            the table; ``revision`` of the repository, or None; ``code``, the hash of the modules
            it depends on; ``sha256`` of the table's file, None before it is stored.
    """

    table: pa.Table
    provenance: dict[str, Any]

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self.table.column_names

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, column: str) -> np.ndarray:
        """A column as an array (rows,): NaN for a missing number, objects for text and lists."""
        values = self.table.column(one_of("column", column, self.columns))
        if pa.types.is_list(values.type):
            array = np.empty(len(values), dtype=object)
            for i, value in enumerate(values.to_pylist()):
                array[i] = None if value is None else np.array(value)
            return array
        if pa.types.is_null(values.type):
            return np.full(len(values), np.nan)
        return values.to_numpy()

    def where(self, **equal: object) -> "Result":
        """The rows whose columns have the given values: ``result.where(c=1.1, status="done")``."""
        kept = np.ones(len(self), dtype=bool)
        for column, value in equal.items():
            kept &= self[column] == value
        return Result(self.table.filter(pa.array(kept)), self.provenance)

    def pivot(self, value: str, rows: str, columns: str) -> np.ndarray:
        """Arrange a numeric column by two others, such as a learning rate and the seed.

        Returns:
            (R, C) over the distinct values of ``rows`` and ``columns``, each in ascending order;
            NaN where there is no such run or it has no such value.

        Raises:
            ValueError: if two runs have the same place.
        """
        first, i = np.unique(self[rows], return_inverse=True)
        second, j = np.unique(self[columns], return_inverse=True)
        if len(set(zip(i.tolist(), j.tolist(), strict=True))) < len(self):
            raise ValueError(f"{rows} and {columns} must tell the runs apart; two have the same")
        array = np.full((len(first), len(second)), np.nan)
        array[i, j] = self[value].astype(float)
        return array

    def describe(self) -> str:
        """Say in a sentence or two which preset and device made this, when, and with what."""
        record = self.provenance
        counts = ", ".join(f"{number} {status}" for status, number in record["statuses"].items())
        versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        revision = record.get("revision")
        return (
            f"{record['name']}, preset {record['preset']}: {record['runs']} runs ({counts}) on "
            f"{' and '.join(record['devices'])}, {_duration(record['seconds'])} of computing, "
            f"{record['date'][:10]}; {versions}{f'; revision {revision}' if revision else ''}. "
            f"Made by `{command(record['name'], record['preset'])}`."
        )


def command(name: str, preset: str) -> str:
    """The command that makes a stored result."""
    return f"make results PRESET={preset} ONLY={name}"


def names() -> list[str]:
    """The names of all experiments in ``study/experiments/``."""
    modules = {module.name for module in pkgutil.iter_modules(experiments.__path__)} - {"stages"}
    modules = sorted(modules)
    return [name for name in modules if not name.startswith("_")]


def experiment(name: str) -> Experiment:
    """The experiment of that name, so that a chapter can run a small grid of it live.

    Raises:
        ValueError: if there is none, or its module registers none of that name.
    """
    one_of("name", name, names())
    found = getattr(importlib.import_module(f"study.experiments.{name}"), "EXPERIMENT", None)
    if not isinstance(found, Experiment) or found.name != name:
        raise ValueError(
            f"study/experiments/{name}.py must define EXPERIMENT, with the name {name!r}"
        )
    return found


def compute(
    experiment: Experiment,
    configs: Sequence[object],
    preset: str,
    *,
    runs: Path = RUNS,
    **options: object,
) -> Result:
    """Run a sweep of the experiment, or what is left of it, and make its table.

    Args:
        experiment: what to run.
        configs: the grid.
        preset: the preset that the grid belongs to, for the record.
        runs: folder of the stored runs.
        options: of `sweep.run`: executor, workers, retry_failed, progress.

    Raises:
        RuntimeError: if a config asks for a GPU and there is none, or every run failed.
        ValueError, sweep.SweepError: as `sweep.run` does.
    """
    one_of("preset", preset, presets.NAMES)
    _check_devices(experiment, configs, preset)
    folder, depends_on = runs / experiment.name, experiment.depends_on
    options.setdefault("progress", f"{experiment.name} ({preset})")
    done = sweep.run(experiment.function, configs, folder, depends_on=depends_on, **options)
    statuses = Counter(run.status for run in done)
    if not done or statuses["failed"] == len(done):
        why = done[0].error if done else "the grid is empty"
        raise RuntimeError(f"{experiment.name}: there is nothing to store, every run failed: {why}")
    grid = {field: _distinct(run.config[field] for run in done) for field in done[0].config}
    made_it = [run for run in done if run.versions]
    provenance = {
        "name": experiment.name,
        "summary": experiment.summary,
        "preset": preset,
        "runs": len(done),
        "statuses": dict(statuses),
        "grid": grid,
        "seeds": grid.get("seed", []),
        "devices": sorted({run.device for run in made_it}),
        "versions": _joined(run.versions for run in made_it),
        "seconds": sum(run.seconds for run in done),
        "started": min(run.started for run in done),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "code": sweep.code_version([experiment.function.__module__, *depends_on]),
        "sha256": None,
    }
    return Result(_tabulate(done), provenance)


def store(result: Result, folder: Path = FOLDER) -> Result:
    """Write the table and its record, the record last, and return the result as it can be loaded.

    Raises:
        OSError: if it cannot be written. A record that does not fit its table is noticed by `load`.
    """
    buffer = io.BytesIO()
    parquet.write_table(result.table, buffer, compression="zstd")
    content = buffer.getvalue()
    record = {**result.provenance, "sha256": hashlib.sha256(content).hexdigest()}
    path = Path(folder) / record["preset"] / record["name"]
    write_atomically(path.with_suffix(".parquet"), content)
    text = json.dumps(record, indent=1, allow_nan=False)
    write_atomically(path.with_suffix(".json"), text.encode() + b"\n")
    return Result(result.table, record)


def load(name: str, *choice: str, folder: Path = FOLDER) -> Result:
    """Read a stored result, checked against its record.

    Args:
        name: of the experiment.
        choice: presets, of which the first that is stored is taken; by default the largest.
        folder: where the results are.

    Raises:
        MissingResultError: if none is stored.
        CorruptResultError: if its files are damaged, or do not belong together.
        ValueError: for an unknown preset.
    """
    choice = [one_of("preset", preset, presets.NAMES) for preset in choice]
    choice = choice or list(reversed(presets.NAMES))
    for preset in choice:
        path = Path(folder) / preset / name
        if path.with_suffix(".parquet").exists() or path.with_suffix(".json").exists():
            return _read(path, name, preset)
    commands = " or ".join(f"`{command(name, preset)}`" for preset in choice)
    raise MissingResultError(f"there is no stored result {name!r} in {folder}; make it: {commands}")


def stored(folder: Path = FOLDER) -> list[tuple[str, str]]:
    """(preset, name) of every result that has a table or a record in the folder of a preset."""
    files = [p for preset in presets.NAMES for p in (Path(folder) / preset).glob("*")]
    return sorted({(p.parent.name, p.stem) for p in files if p.suffix in (".parquet", ".json")})


def recheck(
    experiment: Experiment, configs: Sequence[object], result: Result, rng: np.random.Generator
) -> list[str]:
    """Run a random row of a stored result again and say where the two differ.

    A value with a relative tolerance must agree within it. A value whose tolerance is "spread" must
    lie, if it is a number, in the interval in which a further normal draw lies with probability
    1 - FALSE_ALARM, given the stored rows that differ from this one in their seed alone: their mean
    plus or minus t s sqrt(1 + 1/n); anything else must be among their values.

    Args:
        experiment: what made the result.
        configs: the grid of the result's preset.
        result: what is stored.
        rng: chooses the row.

    Returns:
        One line for each difference; none if all is well. A row of a GPU that is rerun without
        one is rerun on the CPU.

    Raises:
        ValueError: if the rows are not those of the grid, or a value has no tolerance.
    """
    fields = [sweep.fields_of(config) for config in configs]
    rows = result.table.to_pylist()
    if [{key: row[key] for key in f} for f, row in zip(fields, rows, strict=False)] != fields or (
        len(rows) != len(fields)
    ):
        raise ValueError(f"the rows of {experiment.name} are not those of its grid: make it anew")
    index = int(rng.integers(len(rows)))
    row, config = rows[index], _on_what_there_is(configs[index])
    with _one_thread():
        again = sweep.perform(experiment.part or experiment.function, config)
    peers = [r for f, r in zip(fields, rows, strict=True) if _same_but_seed(f, fields[index])]
    found = {"status": again.status, **again.values}
    tolerances = {"status": _status_tolerance(experiment), **experiment.tolerances}
    if experiment.part is not None and again.status == "done":
        del found["status"]  # A part may end before the run as a whole diverges.
    lines = []
    for name, value in found.items():
        if name not in tolerances:
            raise ValueError(f"{experiment.name} must state a tolerance for {name!r}")
        complaint = _difference(row[name], value, [p[name] for p in peers], tolerances[name])
        if complaint:
            lines.append(f"{name} of {config}: {complaint} ({again.error or again.device})")
    return lines


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for PyTorch, as a sweep's processes have: another number sums in another order."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _difference(
    kept: object, value: object, peers: list, tolerance: float | Literal["spread"]
) -> str | None:
    """What is wrong with a rerun's value, or None."""
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


def _status_tolerance(experiment: Experiment) -> float | Literal["spread"]:
    return "spread" if "spread" in experiment.tolerances.values() else 0.0


def _same_but_seed(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return all(one[key] == other[key] for key in one if key != "seed")


def _on_what_there_is(config: object) -> object:
    if str(getattr(config, "device", "")).startswith("cuda") and not _gpu():
        return replace(config, device="cpu")
    return config


def _check_devices(experiment: Experiment, configs: Sequence[object], preset: str) -> None:
    wanted = any(str(getattr(config, "device", "")).startswith("cuda") for config in configs)
    if wanted and not _gpu():
        raise RuntimeError(
            f"the preset {preset} of {experiment.name} needs a GPU, and PyTorch finds none here. "
            f"Without one: `{command(experiment.name, 'default')}`."
        )


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _tabulate(runs: Sequence[sweep.Run]) -> pa.Table:
    """One row a run; a value that only some runs have is null in the others."""
    names = _distinct(name for run in runs for name in run.values)
    fields = list(runs[0].config)
    doubled = {n for n, k in Counter([*fields, *names, *OWN_COLUMNS]).items() if k > 1}
    if doubled:
        raise ValueError(f"a value must not be called as a field or a column is: {sorted(doubled)}")
    columns: dict[str, list] = {field: [run.config[field] for run in runs] for field in fields}
    columns["status"] = [run.status for run in runs]
    columns |= {name: [run.values.get(name) for run in runs] for name in names}
    columns["error"] = [run.error for run in runs]
    columns["seconds"] = [run.seconds for run in runs]
    return pa.table({name: _numbers(values) for name, values in columns.items()})


def _numbers(values: list) -> list:
    """Whole numbers among fractions become floats: a column has one type."""
    if any(isinstance(value, float) for value in values):
        return [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]
    return values


def _read(path: Path, name: str, preset: str) -> Result:
    remedy = f"Make it anew: `{command(name, preset)}`."
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        content = path.with_suffix(".parquet").read_bytes()
    except FileNotFoundError as error:
        raise CorruptResultError(f"{error.filename} is missing. {remedy}") from error
    except ValueError as error:
        message = f"{path.with_suffix('.json')} is not a record ({error}). {remedy}"
        raise CorruptResultError(message) from error
    missing = [key for key in RECORDED if not isinstance(record, dict) or key not in record]
    if missing or (record["name"], record["preset"]) != (name, preset):
        what = f"without {', '.join(missing)}" if missing else "of another result"
        raise CorruptResultError(f"{path.with_suffix('.json')} is a record {what}. {remedy}")
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        message = f"{path.with_suffix('.parquet')} is not the file that its record describes"
        raise CorruptResultError(f"{message}. {remedy}")
    # Without threads, and not from a Python file: a thread of Arrow that still holds something when
    # the interpreter ends aborts it.
    table = parquet.read_table(pa.BufferReader(content), use_threads=False, pre_buffer=False)
    return Result(table, record)


def _distinct(values: Any) -> list:
    """The distinct values, lists among them, in the order of their first appearance."""
    found: list = []
    seen = set()
    for value in values:
        key = json.dumps(value)
        if key not in seen:
            seen.add(key)
            found.append(value)
    return found


def _joined(records: Any) -> dict[str, str]:
    """Versions of all runs: those that agree once, those that do not side by side."""
    found: dict[str, list[str]] = {}
    for record in records:
        for name, version in record.items():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    return {name: " and ".join(versions) for name, versions in found.items()}


def _revision() -> str | None:
    """The git revision of the repository, marked if the code differs from it; None without git."""

    def git(*arguments: str) -> str:
        options = {"cwd": ROOT, "capture_output": True, "text": True, "check": True, "timeout": 30}
        return subprocess.run(["git", *arguments], **options).stdout.strip()

    try:
        revision = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", "src")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{revision} with changes" if changed else revision


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
