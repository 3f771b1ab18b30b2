"""Runs for a machine that is lent for minutes: in the order of their worth, until the time is up.

``python -m study.experiments --preset gpu --minutes 7`` goes through the grids of the experiments
of LISTED, in their order. Each run is stored as it ends, so that nothing is lost whenever it is
stopped, and the next time goes on from there. It needs nothing but PyTorch and NumPy; the tables
are made at home, of the folders that came back.
"""

import itertools
import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from flatminima import datasets, sweep
from flatminima._files import write_atomically
from flatminima.sweep.grid import code_of, keyed
from flatminima.sweep.pool import processes
from flatminima.sweep.store import FILE, Store
from study import provenance, results
from study.results import Experiment, Result

__all__ = ["COMPARED", "LISTED", "Entry", "entries", "tabulate", "work"]

LISTED = ("throughput", "scale")
"""The experiments whose grids are the list, if no others are named."""
COMPARED = "factor"
"""The field in which runs differ that are compared with each other, and so are made together."""
CODES = "list.json"
"""The file beside the stored runs that says which code made them."""
UNTOLD = ("device", "dataset", "activation")
"""Fields that say little in a line of the log."""


class Entry(NamedTuple):
    """Runs that are made together since they are compared: alike in all but COMPARED.

    Example:
        >>> entries("ci")[0].name
        'throughput mlp mse seed 0'
    """

    experiment: Experiment
    configs: tuple[object, ...]

    @property
    def name(self) -> str:
        """What it is called in a line of the log: its words, and its seed."""
        fields = sweep.fields_of(self.configs[0])
        words = [v for k, v in fields.items() if v and isinstance(v, str) and k not in UNTOLD]
        return " ".join([self.experiment.name, *words, f"seed {fields.get('seed')}"])


def entries(preset: str, names: Sequence[str] = LISTED) -> list[Entry]:
    """The list: the grids of the experiments at a preset, in their order.

    Raises:
        ValueError: for an unknown experiment.
    """
    found = []
    for experiment in map(results.experiment, names):
        groups = itertools.groupby(experiment.grid(preset), key=lambda c: _but(COMPARED, c))
        found += [Entry(experiment, tuple(group)) for _, group in groups]
    return found


def work(
    preset: str,
    minutes: float,
    names: Sequence[str] = LISTED,
    *,
    folder: Path | None = None,
    workers: int = 1,
    retry_failed: bool = False,
    began: float | None = None,
    say: Callable[[str], object] = print,
) -> Counter[str]:
    """Make runs of the list for some minutes, each stored at once.

    An entry is not begun if its runs would take longer than what is left of the time, by the
    longest of those like them, which differ in the seed alone; if there are none, it is tried.
    What runs when the time is up is given up, and leaves no trace.

    Args:
        preset, names: as `entries` takes them.
        minutes: from ``began`` on.
        folder: where the runs are stored, in one file; `results.RUNS` / ``list`` if not given.
        workers: runs at once, of one entry.
        retry_failed: whether runs that are stored as failed are made again.
        began: `time.monotonic()` at the start, now if not given.
        say: is given a line about each entry.

    Returns:
        How many runs were stored before (``"before"``), are now (``"now"``), and are not
        (``"left"``).

    Raises:
        RuntimeError: if a GPU is wanted and there is none.
        sweep.SweepError: if a run cannot be stored.
    """
    end = (time.monotonic() if began is None else began) + 60 * minutes
    folder = results.RUNS / "list" if folder is None else Path(folder)
    listed = entries(preset, names)
    for entry in listed:
        provenance.require_devices(entry.configs, name=entry.experiment.name, preset=preset)
    _write_codes(folder, names)
    there = _stored(listed, folder)
    before = sum(run is not None for run in itertools.chain(*there))
    longest: dict[str, float] = {}
    for entry, runs in zip(listed, there, strict=True):
        _note(longest, entry, runs)
    with processes(workers, None) as pool:
        alarm = threading.Timer(max(end - time.monotonic(), 0), pool.close)
        alarm.daemon = True
        alarm.start()
        for i, entry in enumerate(listed):
            pairs = zip(entry.configs, there[i], strict=True)
            wanted = [c for c, r in pairs if not r or (retry_failed and r.status == "failed")]
            left = end - time.monotonic()
            if left <= 0:
                break
            if not wanted:
                continue
            expected = sum(longest.get(_like(entry, config), 0.0) for config in wanted)
            why = f"{expected:.0f} s will not fit into {left:.0f} s" if expected > left else ""
            why = why or _missing(sweep.fields_of(wanted[0]).get("dataset"))
            if why:
                say(f"{entry.name}: {why}")
                continue
            how = {"executor": pool, "workers": workers, "retry_failed": retry_failed}
            how |= {"depends_on": entry.experiment.depends_on, "progress": False}
            try:
                there[i] = sweep.run(entry.experiment.function, entry.configs, folder, **how)
            except sweep.SweepError:
                if time.monotonic() < end:
                    raise
                say(f"{entry.name}: given up, the time is up")
                break
            _note(longest, entry, there[i])
            say(f"{entry.name}: {_told(entry, there[i])}; {end - time.monotonic():.0f} s are left")
        alarm.cancel()
    after = [run is not None for run in itertools.chain(*_stored(listed, folder))]
    return Counter(before=before, now=sum(after), left=len(after) - sum(after))


def tabulate(
    preset: str,
    folders: Sequence[Path],
    names: Sequence[str] = LISTED,
    *,
    out: Path = results.FOLDER,
) -> list[Result]:
    """Store the tables of the runs that came back in folders, those of all folders together.

    The folders are only read. Each says which code made its runs; if that is not the code that is
    here now, the record has the hash of that code, and no revision.

    Raises:
        FileNotFoundError: for a folder without a list.
        ValueError: if there is no run of any of the experiments.
    """
    tables = []
    for experiment in map(results.experiment, names):
        whole = Entry(experiment, tuple(experiment.grid(preset)))
        merged: dict[int, sweep.Run] = {}
        made_by: list[str] = []
        for given in map(Path, folders):
            codes = json.loads((given / CODES).read_text(encoding="utf-8"))
            if experiment.name in codes:
                with tempfile.TemporaryDirectory() as copy:
                    for file in given.glob(f"{FILE}*"):
                        shutil.copyfile(file, Path(copy) / file.name)
                    (found,) = _stored([whole], Path(copy), codes)
                new = {i: run for i, run in enumerate(found) if run is not None}
                made_by += [codes[experiment.name]["version"]] if new else []
                merged = new | merged
        if merged:
            runs = [merged[i] for i in sorted(merged)]
            left = len(whole.configs) - len(runs)
            code = " and ".join(dict.fromkeys(made_by))
            result = results.tabulated(experiment, runs, preset, code, left)
            if code != _codes(experiment)["version"]:
                result = Result(result.table, result.provenance | {"revision": None})
            tables.append(results.store(result, out))
    if not tables:
        raise ValueError(f"there is no run of {', '.join(names)} in {', '.join(map(str, folders))}")
    return tables


def _codes(experiment: Experiment) -> dict[str, str]:
    """The hashes of the code of an experiment: in the keys of its runs, and in its record."""
    modules = [experiment.function.__module__, *experiment.depends_on]
    key = code_of(experiment.function, experiment.depends_on)
    return {"key": key, "version": sweep.code_version(modules)}


def _write_codes(folder: Path, names: Sequence[str]) -> None:
    """Say in the folder which code makes its runs; what it says of other experiments is kept."""
    path = folder / CODES
    codes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    codes |= {name: _codes(results.experiment(name)) for name in names}
    write_atomically(path, json.dumps(codes, indent=1).encode() + b"\n")


def _stored(
    listed: Sequence[Entry], folder: Path, codes: dict[str, dict[str, str]] | None = None
) -> list[list[sweep.Run | None]]:
    """The stored run of each config of each entry, or None; made by the code here, if not given."""
    found = []
    for _, group in itertools.groupby(listed, key=lambda entry: entry.experiment.name):
        some = list(group)
        experiment = some[0].experiment
        code = (codes or {experiment.name: _codes(experiment)})[experiment.name]["key"]
        grids = [keyed(experiment.function, entry.configs, code) for entry in some]
        store = Store(folder, {k: v for grid in grids for k, v in grid.items()}, retry_failed=False)
        store.close()
        found += [[store.finished.get(key) for key in grid] for grid in grids]
    return found


def _but(name: str, config: object) -> str:
    """A config without one of its fields."""
    fields = sweep.fields_of(config)
    return json.dumps({key: value for key, value in fields.items() if key != name})


def _like(entry: Entry, config: object) -> str:
    """What runs that take as long have in common."""
    return entry.experiment.name + _but("seed", config)


def _note(longest: dict[str, float], entry: Entry, runs: Sequence[sweep.Run | None]) -> None:
    for config, run in zip(entry.configs, runs, strict=True):
        if run is not None:
            key = _like(entry, config)
            longest[key] = max(longest.get(key, 0.0), run.seconds)


def _told(entry: Entry, runs: Sequence[sweep.Run]) -> str:
    """How the runs of an entry went, each in a word or two."""
    parts = []
    for config, run in zip(entry.configs, runs, strict=True):
        error = f" ({run.error.strip().splitlines()[-1]})" if run.error else ""
        part = f"{run.status} in {run.seconds:.1f} s{error}"
        factor = getattr(config, COMPARED, None)
        parts.append(part if factor is None else f"{factor:g} {part}")
    return ", ".join(parts)


@cache
def _missing(dataset: str | None) -> str:
    """Why the images of a run are not to be had here; nothing if they are."""
    try:
        if dataset in datasets.SOURCES:
            datasets.load(dataset, n_train=10, n_test=10)
    except (datasets.DataUnavailableError, datasets.CorruptDataError) as error:
        return f"its data are missing: {error}"
    return ""
