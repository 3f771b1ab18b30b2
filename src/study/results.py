"""Tables of finished sweeps, each with the record of how it was made; nothing is read unchecked.

``make results PRESET=default ONLY=flatness`` runs ``study/experiments/flatness.py`` and writes
``results/default/flatness.parquet``, one row a run, beside it ``flatness.json``, its
provenance. A chapter reads them back with `load`, and says with `Result.describe` which preset and
device made what it shows.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from filelock import FileLock

from flatminima import sweep
from flatminima._files import write_atomically
from flatminima._validation import one_of
from flatminima.statistics import Interval
from flatminima.sweep.runs import OWN, alike, kind
from study import ROOT, experiments, presets, provenance

if TYPE_CHECKING:
    # A machine that only runs experiments needs no Arrow: it is loaded where tables are.
    import pyarrow as pa

__all__ = [
    "FOLDER",
    "CorruptResultError",
    "Experiment",
    "MissingResultError",
    "Result",
    "compute",
    "experiment",
    "load",
    "store",
    "stored",
    "tabulated",
]

FOLDER = ROOT / "results"
"""Where the tables are, each in the folder of its preset."""
RUNS = Path(os.environ.get("FLATMINIMA_RUNS") or ROOT / "_runs")
"""Where the runs of unfinished sweeps wait to be resumed, unless FLATMINIMA_RUNS names a folder."""


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
            the spread over the stored seeds, see `recheck.difference`.
        part: config -> some of the values of ``function``, at less cost, for `recheck.rerun`;
            None stands for ``function`` itself.
        effects: stored result (of one data set and one kind of network) -> the effects that the
            chapter reports and `study.claims` judges, so that the two cannot differ. A run that
            diverged or did not come to the common loss is left out, of a pair with its partner.
        predictions: stored result -> which of the predictions that the chapter states beforehand
            are borne out; a test checks that they fail where there is no effect.
    """

    name: str
    summary: str
    function: Callable[[Any], Mapping[str, object]]
    grid: Callable[[str], Sequence[object]]
    depends_on: tuple[str, ...]
    tolerances: Mapping[str, float | Literal["spread"]]
    part: Callable[[Any], Mapping[str, object]] | None = None
    effects: Callable[[Result], dict[str, Interval]] | None = None
    predictions: Callable[[Result], dict[str, bool]] | None = None


@dataclass(frozen=True)
class Result:
    """A table with one row a run, in the order of the grid, and the record of how it was made.

    The columns are the fields of the config, ``status`` ("done", "diverged" or "failed"), the
    values, ``error`` (why it diverged or failed) and ``seconds`` (wall time of the run).

    Attributes:
        table: the table as pyarrow holds it; ``table.to_pandas()`` where pandas is installed.
        provenance: how it was made, as `provenance.record` lists it.
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
        import pyarrow as pa

        values = self.table.column(one_of("column", column, self.columns))
        if pa.types.is_list(values.type):
            array = np.empty(len(values), dtype=object)
            for i, value in enumerate(values.to_pylist()):
                array[i] = None if value is None else np.array(value)
            return array
        if pa.types.is_null(values.type):
            return np.full(len(values), np.nan)
        return values.to_numpy()

    def where(self, **equal: object) -> Result:
        """The rows whose columns have the given values: ``result.where(c=1.1, status="done")``."""
        import pyarrow as pa

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
        return provenance.describe(self.provenance)


def experiment(name: str) -> Experiment:
    """The experiment of that name, so that a chapter can run a small grid of it live.

    Raises:
        ValueError: if there is none, or its module registers none of that name.
    """
    one_of("name", name, experiments.NAMES)
    found = getattr(importlib.import_module(f"study.experiments.{name}"), "EXPERIMENT", None)
    if not isinstance(found, Experiment) or found.name != name:
        file = f"study/experiments/{name}.py"
        raise ValueError(f"{file} must define EXPERIMENT, with the name {name!r}")
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
        experiment, configs: what to run, on which grid.
        preset: the preset that the grid belongs to, for the record.
        runs: folder of the stored runs.
        options: of `sweep.run`: executor, workers, time_limit, retry_failed, progress.

    Raises:
        RuntimeError: if a config asks for a GPU and there is none, every run failed, or the code
            was edited meanwhile.
        ValueError: also if the configs cannot be the rows of one table.
        ValueError, sweep.SweepError: as `sweep.run` does.
    """
    one_of("preset", preset, presets.NAMES)
    _require_columns(experiment.name, configs)
    provenance.require_devices(configs, name=experiment.name, preset=preset)
    folder, depends_on = runs / experiment.name, experiment.depends_on
    code = sweep.code_version([experiment.function.__module__, *depends_on])
    options.setdefault("progress", f"{experiment.name} ({preset})")
    done = sweep.run(experiment.function, configs, folder, depends_on=depends_on, **options)
    if all(run.status == "failed" for run in done):
        why = done[0].error if done else "the grid is empty"
        raise RuntimeError(f"{experiment.name}: there is nothing to store, every run failed: {why}")
    if code != sweep.code_version([experiment.function.__module__, *depends_on]):
        raise RuntimeError(f"{experiment.name}: its code was edited while it ran; start it again")
    return tabulated(experiment, done, preset, code)


def tabulated(
    experiment: Experiment, runs: Sequence[sweep.Run], preset: str, code: str, left: int = 0
) -> Result:
    """The table of runs, one at least, and its record.

    Args:
        experiment, preset: whose runs they are, and on which grid.
        code: hash of the code that made them.
        left: how many runs of the grid are still to be made.
    """
    about = {"name": experiment.name, "summary": experiment.summary, "preset": preset}
    record = provenance.record(runs, **about, code=code)
    return Result(_tabulate(runs), record | ({"left": left} if left else {}))


def store(result: Result, folder: Path = FOLDER) -> Result:
    """Write the table and its record, and return the result as it can be loaded.

    Stopped at any moment, however often, it leaves the old pair or the new one: the new table waits
    under a name of its own until its record is there. Of two at once the second waits.

    Raises:
        OSError: if it cannot be written.
    """
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(result.table, buffer, compression="zstd")
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    record = provenance.sealed({**result.provenance, "sha256": digest})
    path = Path(folder) / record["preset"] / record["name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, allow_nan=False)
    with FileLock(path.with_suffix(".lock")):
        write_atomically(_waiting(path, digest), content)
        write_atomically(path.with_suffix(".json"), text.encode() + b"\n")
        _waiting(path, digest).replace(path.with_suffix(".parquet"))
        for left in path.parent.glob(f"{path.name}.*.new"):
            left.unlink()
        # Last of all, while it is held: whoever waits for it sees that it is gone, and asks for a
        # new one. Windows keeps a file that is open.
        with suppress(PermissionError):
            path.with_suffix(".lock").unlink()
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
    commands = " or ".join(f"`{provenance.command(name, preset)}`" for preset in choice)
    raise MissingResultError(f"there is no stored result {name!r} in {folder}; make it: {commands}")


def stored(folder: Path = FOLDER) -> list[tuple[str, str]]:
    """(preset, name) of every result that has a table or a record in the folder of a preset."""
    files = [p for preset in presets.NAMES for p in (Path(folder) / preset).glob("*")]
    return sorted({(p.parent.name, p.stem) for p in files if p.suffix in (".parquet", ".json")})


def _require_columns(name: str, configs: Sequence[object]) -> None:
    """Raise ValueError unless configs can be rows of a table: before a run, and not after all."""
    rows = [sweep.fields_of(config) for config in configs]
    for row in rows:
        if row.keys() != rows[0].keys() or not row.keys().isdisjoint(OWN):
            raise ValueError(
                f"all configs of {name} must have the same fields, and none called as one of "
                f"{', '.join(OWN)}; got {list(rows[0])} and {list(row)}"
            )
    for field in rows[0] if rows else ():
        kinds = {kind(row[field]) for row in rows}
        if not alike(kinds):
            raise ValueError(f"the field {field} of {name} must be of one kind, got {kinds}")


def _tabulate(runs: Sequence[sweep.Run]) -> pa.Table:
    """One row a run; a value that only some runs have is null in the others."""
    import pyarrow as pa

    names = provenance.distinct(name for run in runs for name in run.values)
    fields = list(runs[0].config)
    own = {name: [getattr(run, name) for run in runs] for name in OWN}
    # A traceback names files; where they stood on the machine that ran them tells nobody anything.
    own["error"] = [error and error.replace(f"{ROOT}{os.sep}", "") for error in own["error"]]
    columns = {field: [run.config[field] for run in runs] for field in fields}
    columns |= {"status": own.pop("status")}
    columns |= {name: [run.values.get(name) for run in runs] for name in names} | own
    return pa.table({name: _numbers(values) for name, values in columns.items()})


def _numbers(values: list) -> list:
    """Whole numbers among fractions become floats: a column has one type."""
    if any(isinstance(value, float) for value in values):
        return [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]
    return values


def _waiting(path: Path, digest: str) -> Path:
    """Where a table is whose record may not be written yet."""
    return path.with_suffix(f".{digest[:16]}.new")


def _read(path: Path, name: str, preset: str) -> Result:
    remedy = f"Make it anew: `{provenance.command(name, preset)}`."
    there = path.with_suffix(".json")
    try:
        record = json.loads(there.read_bytes())
        whole = isinstance(record, dict) and record == provenance.sealed(record)
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptResultError(f"{there} is no record ({error}). {remedy}") from error
    if not whole:
        raise CorruptResultError(f"{there} has been altered. {remedy}")
    missing = [key for key in provenance.REQUIRED if key not in record]
    if missing or (record["name"], record["preset"]) != (name, preset):
        what = f"without {', '.join(missing)}" if missing else "of another result"
        raise CorruptResultError(f"{there} is a record {what}. {remedy}")
    for file in (path.with_suffix(".parquet"), _waiting(path, record["sha256"])):
        content = file.read_bytes() if file.is_file() else b""
        if hashlib.sha256(content).hexdigest() == record["sha256"]:
            table = _table(content)
            if len(table) == record["runs"] and record["grid"].keys() <= {*table.column_names}:
                return Result(table, record)
    message = f"{path.with_suffix('.parquet')} is not the file that its record describes"
    raise CorruptResultError(f"{message}. {remedy}")


def _table(content: bytes) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    # By this thread alone, as `parquet.read_table` never does: a thread of Arrow that still holds
    # something of Python's when the interpreter ends aborts it.
    file = parquet.ParquetFile(pa.BufferReader(content), pre_buffer=False)
    return file.read(use_threads=False)
