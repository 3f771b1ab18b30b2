"""Stored results: tables with provenance, checked when read, and made again in part."""

import concurrent.futures
import dataclasses
import functools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sweep_examples
from scipy import stats
from sweep_examples import Point

import flatminima
from flatminima import datasets, sweep
from flatminima.sweep import grid as keys
from study import ROOT, experiments, presets, provenance, recheck, results

RATES, SEEDS = (0.5, 1.5, 2.5), range(4)
GRID = [Point(rate, seed) for rate in RATES for seed in SEEDS]
EXAMPLE = results.Experiment(
    name="example",
    summary="an example",
    function=sweep_examples.wobbly,
    grid=lambda preset: GRID,
    depends_on=("flatminima.sweep",),
    tolerances={"twice": 1e-12, "noisy": "spread", "late": "spread"},
)


@pytest.fixture
def thread():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def example(tmp_path, thread):
    """The result of the example, not stored."""
    options = {"runs": tmp_path / "runs", "executor": thread, "progress": False}
    return results.compute(EXAMPLE, GRID, "ci", **options)


# The table


def test_table_has_a_row_for_each_run_in_the_order_of_the_grid(example):
    expected = ["rate", "seed", "device", "status", "twice", "noisy", "late", "error", "seconds"]
    assert example.columns == expected
    assert len(example) == len(GRID)
    assert example["rate"].tolist() == [config.rate for config in GRID]
    assert example["seed"].tolist() == [config.seed for config in GRID]
    assert example["twice"].tolist() == [2 * config.rate for config in GRID]
    assert example["status"].tolist() == 8 * ["done"] + 4 * ["diverged"]
    assert np.array_equal(np.isnan(example["late"]), example["rate"] != 1.5)
    assert example["error"].tolist() == 8 * [None] + 4 * ["too fast"]
    with pytest.raises(ValueError, match="column must be one of rate"):
        example["absent"]


def test_where_and_pivot(example):
    done = example.where(status="done", rate=1.5)
    assert len(done) == 4
    assert done["late"].tolist() == [0, 1, 2, 3]
    noisy = example.pivot("noisy", "rate", "seed")
    assert noisy.shape == (3, 4)
    assert np.isnan(noisy[2]).all()
    assert noisy[1, 2] == sweep_examples.wobbly(Point(1.5, 2))["noisy"]
    with pytest.raises(ValueError, match="tell the runs apart"):
        example.pivot("noisy", "rate", "device")


def test_columns_of_every_kind():
    run = sweep.Run({"widths": [1, 2]}, "done", {}, None, 0.0, "", "", {})
    kinds = [{"a": [1.0, 2.0], "b": 1, "c": None, "d": True}, {"a": [3.0], "b": 0.5, "c": None}]
    runs = [dataclasses.replace(run, values=values) for values in kinds]
    result = results.Result(results._tabulate(runs), {})
    assert [a.tolist() for a in result["a"]] == [[1.0, 2.0], [3.0]]
    assert [w.tolist() for w in result["widths"]] == [[1, 2], [1, 2]]
    assert result["b"].tolist() == [1.0, 0.5]
    assert np.isnan(result["c"]).all()
    assert result["d"].tolist() == [True, None]


def anything(**fields):
    return {"value": 1.0}


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([{"a": 1}, {"a": 2, "b": 3}], r"the same fields, .* \['a'\] and \['a', 'b'\]"),
        ([{"a": 1, "b": 3}, {"a": 2}], "the same fields"),
        ([{"seconds": 1}], "none called as one of status, error, seconds"),
        ([{"a": 1}, {"a": "x"}], "the field a of example must be of one kind"),
        ([{"a": 1.5}, {"a": True}], "the field a of example must be of one kind"),
        ([{"a": 1.5}, {"a": (1.5,)}], "the field a of example must be of one kind"),
    ],
)
def test_configs_that_make_no_table_are_refused_before_a_run(tmp_path, thread, grid, message):
    experiment = dataclasses.replace(EXAMPLE, function=anything)
    options = {"runs": tmp_path, "executor": thread, "progress": False}
    with pytest.raises(ValueError, match=message):
        results.compute(experiment, grid, "ci", **options)
    assert not list(tmp_path.iterdir())
    made = results.compute(experiment, [{"a": None}, {"a": 1}, {"a": 0.5}], "ci", **options)
    assert made["a"][1:].tolist() == [1.0, 0.5]


def test_provenance_says_what_made_the_result(example):
    record = example.provenance
    assert (record["name"], record["preset"], record["runs"]) == ("example", "ci", 12)
    assert record["grid"] == {"rate": list(RATES), "seed": list(SEEDS), "device": ["cpu"]}
    assert record["seeds"] == list(SEEDS)
    assert record["statuses"] == {"done": 8, "diverged": 4}
    assert record["versions"]["python"] == sys.version.split()[0]
    assert record["versions"]["flatminima"] == flatminima.__version__
    assert record["seconds"] == pytest.approx(example["seconds"].sum())
    assert record["started"] <= record["date"]
    assert record["code"] == sweep.code_version(["sweep_examples", "flatminima.sweep"])
    git = ["git", "rev-parse", "--short=12", "HEAD"]
    head = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert record["revision"].startswith(head.stdout.strip())
    text = example.describe()
    for part in ("example, preset ci: 12 runs (8 done, 4 diverged) on ", record["devices"][0]):
        assert part in text
    assert text.endswith("Made by `make results PRESET=ci ONLY=example`.")


def test_without_git_there_is_no_revision(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.revision() is None
    monkeypatch.setenv("PATH", "")
    assert provenance.revision() is None


def test_versions_that_differ_between_runs_are_all_named():
    assert provenance._joined([{"torch": "1", "numpy": "3"}, {"torch": "2", "numpy": "3"}]) == {
        "torch": "1 and 2",
        "numpy": "3",
    }


# Files


def test_a_stored_result_is_read_back_as_it_was(example, tmp_path):
    kept = results.store(example, tmp_path)
    back = results.load("example", "ci", folder=tmp_path)
    assert back.table.equals(example.table)
    assert back.provenance == kept.provenance
    assert results.stored(tmp_path) == [("ci", "example")]
    assert sorted(p.name for p in (tmp_path / "ci").iterdir()) == [
        "example.json",
        "example.parquet",
    ]


def test_the_largest_preset_is_taken_unless_one_is_named(example, tmp_path):
    for preset in ("ci", "default"):
        made = results.Result(example.table, {**example.provenance, "preset": preset})
        results.store(made, tmp_path)
    assert results.load("example", folder=tmp_path).provenance["preset"] == "default"
    chosen = results.load("example", "gpu", "ci", folder=tmp_path)
    assert chosen.provenance["preset"] == "ci"


def test_missing_result_names_the_command_that_makes_it(tmp_path):
    command = "make results PRESET=gpu ONLY=example"
    with pytest.raises(results.MissingResultError, match=command):
        results.load("example", "gpu", folder=tmp_path)
    with pytest.raises(results.MissingResultError, match=f"`{command}` or `make results PRESET=de"):
        results.load("example", folder=tmp_path)
    with pytest.raises(ValueError, match="preset must be one of"):
        results.load("example", "huge", folder=tmp_path)


def change(path, function):
    content = path.read_bytes()
    changed = function(content)
    assert changed != content
    path.write_bytes(changed)


def flip(content):
    """Turn one bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".parquet", flip),
        (".parquet", lambda content: content[:-1]),
        (".parquet", None),
        (".json", lambda content: content[:-20]),
        (".json", lambda content: b"[]"),
        (".json", lambda content: content.replace(b'"example"', b'"another"')),
        (".json", lambda content: content.replace(b'"devices"', b'"devises"')),
        (".json", lambda content: content.replace(b'"runs": ', b'"runs": 1')),
        (".json", lambda content: content.replace(b'"runs": ', b'"more": NaN, "runs": ')),
        (".json", lambda content: 10**6 * b"["),
        (".json", None),
    ],
)
def test_damaged_result_is_not_read(example, tmp_path, suffix, damage):
    results.store(example, tmp_path)
    path = (tmp_path / "ci" / "example").with_suffix(suffix)
    path.unlink() if damage is None else change(path, damage)
    with pytest.raises(results.CorruptResultError, match="make results PRESET=ci ONLY=example"):
        results.load("example", folder=tmp_path)
    results.store(example, tmp_path)
    assert results.load("example", folder=tmp_path).table.equals(example.table)


def part(result, **equal):
    """Some rows of a result as one of their own."""
    rows = result.where(**equal)
    return results.Result(rows.table, {**rows.provenance, "runs": len(rows)})


def test_a_table_that_lacks_rows_or_columns_of_its_record_is_not_read(example, tmp_path):
    short = example.where(seed=0)
    narrow = results.Result(example.table.drop(["rate"]), example.provenance)
    for made in (short, narrow):
        results.store(made, tmp_path)
        with pytest.raises(results.CorruptResultError, match="not the file that its record"):
            results.load("example", folder=tmp_path)
    results.store(part(example, seed=0), tmp_path)
    assert len(results.load("example", folder=tmp_path)) == 3


def test_of_two_that_store_at_once_the_second_waits(example, tmp_path, monkeypatch):
    other, write, threads = part(example, seed=0), results.write_atomically, []

    def meanwhile(path, content):
        write(path, content)
        if not threads:
            # The other begins once the first has written its table, and has time to end.
            threads.append(threading.Thread(target=results.store, args=(other, tmp_path)))
            threads[0].start()
            threads[0].join(0.5)

    monkeypatch.setattr(results, "write_atomically", meanwhile)
    results.store(example, tmp_path)
    threads[0].join()
    assert results.load("example", folder=tmp_path).table.equals(other.table)
    assert len(list((tmp_path / "ci").iterdir())) == 2


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_folder_in_the_place_of_a_file_is_no_result(example, tmp_path, suffix):
    results.store(example, tmp_path)
    path = (tmp_path / "ci" / "example").with_suffix(suffix)
    path.unlink()
    path.mkdir()
    with pytest.raises(results.CorruptResultError, match="Make it anew"):
        results.load("example", folder=tmp_path)


def test_full_disk_leaves_the_old_result(example, tmp_path, monkeypatch):
    results.store(example, tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        results.store(example.where(status="done"), tmp_path)
    assert results.load("example", folder=tmp_path).table.equals(example.table)


def test_a_stored_error_does_not_say_where_the_files_stood(tmp_path, thread):
    broken = dataclasses.replace(EXAMPLE, function=sweep_examples.impatient)
    configs = [Point(0.5, 0), Point(1.5, 0)]
    made = results.compute(broken, configs, "ci", runs=tmp_path, executor=thread, progress=False)
    (error,) = filter(None, made["error"])
    assert f'"{Path("tests/support/sweep_examples.py")}"' in error
    assert str(ROOT) not in error


def test_every_bit_of_a_record_counts(example, tmp_path, generator):
    results.store(example, tmp_path)
    path = tmp_path / "ci" / "example.json"
    content = path.read_bytes()
    for place in generator.integers(len(content), size=200):
        bit = 1 << int(generator.integers(8))
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        try:
            read = results.load("example", folder=tmp_path)
        except results.CorruptResultError:
            continue
        # Between the values, where JSON allows several kinds of space.
        assert read.provenance == json.loads(content)


def stopped_in(store, writes):
    """Store a result, and be killed before one of its three files gets its name."""
    replace, left = Path.replace, [writes]

    def dying(self, target):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return replace(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            store()


@pytest.mark.parametrize("kills", [(1,), (2,), (3,), (3, 1), (3, 2), (3, 3), (2, 3, 2)])
def test_kills_at_any_moment_leave_the_old_pair_or_the_new_one(example, tmp_path, kills):
    results.store(example, tmp_path)
    there = len(example)
    for number, writes in enumerate(kills, 1):
        new = part(example, seed=0) if number % 2 else part(example, status="done")
        assert len(new) not in (there, len(example))
        stopped_in(lambda new=new: results.store(new, tmp_path), writes)
        # The record, which is the second file, decides.
        there = len(new) if writes == 3 else there
        assert len(results.load("example", folder=tmp_path)) == there
    results.store(new, tmp_path)
    assert len(results.load("example", folder=tmp_path)) == len(new)
    assert len(list((tmp_path / "ci").iterdir())) == 2


# What cannot be made


def test_gpu_preset_without_a_gpu_says_so_before_anything_runs(tmp_path, thread, monkeypatch):
    monkeypatch.setattr(provenance, "gpu_available", lambda: False)
    grid = [Point(0.5, 0, "cuda")]
    options = {"runs": tmp_path, "executor": thread, "progress": False}
    with pytest.raises(RuntimeError, match="the preset gpu of example needs a GPU") as error:
        results.compute(EXAMPLE, grid, "gpu", **options)
    assert "make results PRESET=default ONLY=example" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_sweep_whose_code_is_edited_is_not_stored(tmp_path, thread, monkeypatch):
    versions = iter(["before", "after"])
    monkeypatch.setattr(sweep, "code_version", lambda modules: next(versions))
    options = {"runs": tmp_path, "executor": thread, "progress": False}
    with pytest.raises(RuntimeError, match="edited while it ran"):
        results.compute(EXAMPLE, GRID, "ci", **options)


def test_a_sweep_of_failures_is_not_stored(tmp_path, thread):
    configs = [Point(0.5, 0)]
    broken = dataclasses.replace(EXAMPLE, function=sweep_examples.impatient)
    options = {"runs": tmp_path, "executor": thread, "progress": False}
    with pytest.raises(RuntimeError, match="too slow"):
        results.compute(broken, configs, "ci", **options)
    with pytest.raises(RuntimeError, match="the grid is empty"):
        results.compute(broken, [], "ci", **options)
    made = results.compute(broken, [*configs, Point(1.5, 0)], "ci", **options)
    assert made["status"].tolist() == ["failed", "done"]


# The command


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The main function of ``experiments``, with the example as the only experiment."""
    from study.experiments import __main__

    store = functools.partial(results.store, folder=tmp_path / "results")
    compute = functools.partial(results.compute, runs=tmp_path / "runs", progress=False)
    monkeypatch.setattr(experiments, "NAMES", ["example"])
    monkeypatch.setattr(results, "experiment", lambda name: EXAMPLE)
    monkeypatch.setattr(results, "store", store)
    monkeypatch.setattr(results, "compute", compute)
    return __main__.main


def test_command_makes_what_it_is_asked_for(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FLATMINIMA_PRESET", "ci")
    assert command(["--workers", "2"]) == 0
    made = results.load("example", folder=tmp_path / "results")
    assert made.provenance["preset"] == "ci"
    assert made.describe() in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command(["--only", "no_such_experiment"])


def test_command_runs_on_a_dask_cluster(command, tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"processes": False, "n_workers": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        assert command(["--preset", "ci", "--dask", cluster.scheduler_address]) == 0
    made = results.load("example", folder=tmp_path / "results")
    assert made["status"].tolist() == 8 * ["done"] + 4 * ["diverged"]


def test_command_without_a_gpu_ends_with_a_clear_message(command, monkeypatch, capsys):
    monkeypatch.setattr(provenance, "gpu_available", lambda: False)
    on_gpu = dataclasses.replace(EXAMPLE, grid=lambda preset: [Point(0.5, 0, "cuda")])
    monkeypatch.setattr(results, "experiment", lambda name: on_gpu)
    assert command(["--preset", "gpu"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("example: the preset gpu of example needs a GPU")
    assert "Traceback" not in error


# Running a part again


def rechecks(experiment, result, grid=GRID, tries=40):
    """What is found in rechecks of many random rows: with 40 tries a row is missed once in 30."""
    rng = np.random.default_rng(0)
    return [line for _ in range(tries) for line in recheck.rerun(experiment, grid, result, rng)]


def altered(result, column, function):
    values = [function(value) for value in result.table.column(column).to_pylist()]
    index = result.columns.index(column)
    return results.Result(result.table.set_column(index, column, pa.array(values)), {})


def test_recheck_passes_on_what_was_made_and_finds_what_was_altered(example):
    assert rechecks(EXAMPLE, example) == []
    slightly = altered(example, "twice", lambda value: value * (1 + 1e-9))
    assert "twice of Point(rate=" in rechecks(EXAMPLE, slightly)[0]
    far = altered(example, "noisy", lambda value: None if value is None else value + 100)
    assert "outside 10" in rechecks(EXAMPLE, far)[0]
    absent = altered(example, "late", lambda value: None)
    assert "late of" in rechecks(EXAMPLE, absent)[0]
    # All rows of a rate alike in status, so that no peer excuses it.
    status = altered(example, "status", lambda value: "done")
    assert "now 'diverged'" in rechecks(EXAMPLE, status)[0]
    part = dataclasses.replace(EXAMPLE, part=sweep_examples.steady)
    assert rechecks(part, example) == []
    assert rechecks(part, slightly)


def test_recheck_of_a_spread_admits_what_another_seed_could_give():
    peers = [1.0, 1.1, 0.9, 1.05]
    # 1.0125 is their mean, 0.0854 their standard deviation, sqrt(1 + 1/4) the rest of the factor.
    width = stats.t.isf(recheck.FALSE_ALARM / 2, 3) * np.std(peers, ddof=1) * np.sqrt(1.25)
    for sign in (1, -1):
        assert recheck.difference(1.0, 1.0125 + 0.99 * sign * width, peers, "spread") is None
        assert "outside" in recheck.difference(1.0, 1.0125 + 1.01 * sign * width, peers, "spread")
    assert "outside" in recheck.difference(2.0, 2.1, [2.0, 2.0, 2.0], "spread")
    assert recheck.difference(2.0, 2.0, [2.0, 2.0, 2.0], "spread") is None
    assert "now None" in recheck.difference(1.0, None, peers, "spread")
    assert recheck.difference(1.0, None, [*peers, None], "spread") is None


@pytest.mark.parametrize("tolerance", [0.0, 1e-6])
def test_recheck_of_a_tolerance(tolerance):
    for value in (0.0, 1.0, -3, "text", True, None, [1.0, 2.0]):
        assert recheck.difference(value, value, [], tolerance) is None
    for kept, value in ((1.0, 1.1), (1.0, None), (None, 1.0), ("a", "b"), ([1.0], [1.0, 2.0])):
        assert recheck.difference(kept, value, [], tolerance)
    assert bool(recheck.difference(1.0, 1.0 + 1e-7, [], tolerance)) == (tolerance == 0)


def test_recheck_takes_the_runs_that_there_are_of_a_grid_that_is_not_finished(example):
    half = example.where(seed=1)
    unfinished = results.Result(half.table, half.provenance | {"left": len(GRID) - len(half)})
    assert rechecks(EXAMPLE, unfinished) == []
    assert "9 more of the grid are not made yet" in unfinished.describe()
    slightly = altered(unfinished, "twice", lambda value: value * (1 + 1e-9))
    slightly = results.Result(slightly.table, unfinished.provenance)
    assert "twice of Point(rate=" in rechecks(EXAMPLE, slightly)[0]
    with pytest.raises(ValueError, match="not those of its grid"):
        rechecks(EXAMPLE, half)
    with pytest.raises(ValueError, match="not those of its grid"):
        rechecks(EXAMPLE, unfinished, grid=[config for config in GRID if config.rate != 0.5])


def test_recheck_refuses_another_grid_and_a_value_without_tolerance(example):
    rng = np.random.default_rng(0)
    for grid in (GRID[:-1], [*GRID[:-1], Point(9.0, 9)], [*GRID, Point(9.0, 9)]):
        with pytest.raises(ValueError, match="not those of its grid"):
            recheck.rerun(EXAMPLE, grid, example, rng)
    forgetful = dataclasses.replace(EXAMPLE, tolerances={"noisy": "spread", "late": "spread"})
    with pytest.raises(ValueError, match="a tolerance for 'twice'"):
        recheck.rerun(forgetful, GRID, example, rng)


# What is registered in study/experiments/ and stored in results/

NAMES = experiments.NAMES
STORED = results.stored()


def test_every_module_in_experiments_registers_an_experiment():
    modules = {p.stem for p in (ROOT / "src/study/experiments").glob("*.py") if p.stem[0] != "_"}
    assert set(NAMES) == modules - {"power", "stages"}
    assert all(results.experiment(name).name == name for name in NAMES)
    with pytest.raises(ValueError, match="name must be one of"):
        results.experiment("no_such_experiment")


@pytest.mark.parametrize("preset", presets.NAMES)
@pytest.mark.parametrize("name", NAMES)
def test_every_preset_has_a_grid(name, preset):
    experiment = results.experiment(name)
    grid = experiment.grid(preset)
    found = keys.keyed(experiment.function, grid, experiment.depends_on)
    assert len(found) == len(grid) > 0
    assert experiment.summary


def test_every_experiment_has_a_stored_result_and_the_reverse():
    assert {name for _, name in STORED} == set(NAMES)
    # A table in a folder that is no preset's would never be run again.
    tables = {(path.parent.name, path.stem) for path in results.FOLDER.rglob("*.parquet")}
    assert tables <= set(STORED)


def test_loading_a_result_starts_no_thread():
    """A thread of Arrow that outlives the reading aborts, now and then, a program that ends."""
    if not Path("/proc/self/task").exists():
        pytest.skip("threads are counted in /proc")
    program = """
from pathlib import Path
from pyarrow import parquet
from study import results
def threads():  # but for the one that the allocator starts when it likes
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return sum(not name.startswith("jemalloc") for name in names)
before = threads()
results.load("flatness")
print(threads() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert int(done.stdout) == 0


def unavailable(result) -> dict[str, str]:
    """The data sets of a result that are not here, each with what its loader says."""
    missing = {}
    for dataset in set(result["dataset"]) if "dataset" in result.columns else ():
        try:
            if dataset in datasets.SOURCES:  # a text is always here
                datasets.load(dataset, n_train=10)
        except datasets.DataUnavailableError as error:
            missing[dataset] = str(error)
    return missing


# One row, the same each time; a random one in a search.
@pytest.mark.search
@pytest.mark.parametrize(("preset", "name"), STORED, ids=lambda word: word)
def test_a_row_of_a_stored_result_comes_out_again(preset, name, generator):
    if preset == "gpu" and not provenance.gpu_available():
        pytest.skip("needs a GPU: a run of its size takes a processor hours")
    experiment = results.experiment(name)
    result = results.load(name, preset)
    grid = experiment.grid(preset)
    if missing := unavailable(result):
        grid = [config for config in grid if config.dataset not in missing]
        kept = ~np.isin(result["dataset"].astype(str), list(missing))
        result = results.Result(result.table.filter(pa.array(kept)), result.provenance)
    if not grid:
        pytest.skip(f"needs its data: {missing}")
    found = recheck.rerun(experiment, grid, result, generator)
    assert not found, "\n".join(found)
