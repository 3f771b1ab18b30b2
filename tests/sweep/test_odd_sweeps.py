"""Sweeps of what one would not expect: odd values, names, functions and folders."""

import concurrent.futures
import dataclasses
import functools
import json
import os
import sqlite3
import subprocess
import sys
import time
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from flatminima import sweep
from flatminima.sweep import grid, store


@pytest.fixture
def thread():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


def go(function, configs, folder, executor, **options):
    return sweep.run(function, configs, folder, executor=executor, progress=False, **options)


def count(folder):
    with closing(sqlite3.connect(Path(folder) / store.FILE)) as database:
        return database.execute("SELECT count(*) FROM runs").fetchone()[0]


def constant(**fields):
    return {"value": 1.0}


# Values and names


def lists(number):
    """No entries, entries that are not finite, none that was measured, and three others."""
    return {"x": [[], [np.nan] * 2, None, [1.0, 2.0], [], [3]][number]}


@pytest.mark.parametrize("order", [range(6), range(5, -1, -1)])
def test_a_list_without_numbers_stands_beside_those_with_numbers(tmp_path, thread, order):
    runs = go(lists, [{"number": n} for n in order], tmp_path, thread, workers=1)
    found = {run.config["number"]: (run.status, run.values["x"]) for run in runs}
    assert found == {
        0: ("done", []),
        1: ("diverged", [None, None]),
        2: ("done", None),
        3: ("done", [1.0, 2.0]),
        4: ("done", []),
        5: ("done", [3]),
    }


def deep(number):
    return {"x": [[], [1.0], [[1.0]], [[None], [1.0]], [["a"], [1.0]]][number]}


def test_lists_of_lists_are_of_another_kind_than_lists(tmp_path, thread):
    runs = go(deep, [{"number": n} for n in range(5)], tmp_path, thread, workers=1)
    assert [run.status for run in runs] == ["done", "done", "failed", "failed", "failed"]
    assert "is lists of lists of numbers here, and lists of numbers in other" in runs[2].error
    assert "entries of one shape and kind" in runs[4].error


def named(name):
    return {name: 1.0}


@pytest.mark.parametrize("name", ["name", "status", "error", "seconds", "\ud800"])
def test_a_value_that_has_no_column_to_itself_fails_at_its_run(tmp_path, thread, name):
    config = {"name": name if name != "\ud800" else "x"}
    function = named if name != "\ud800" else surrogate
    (run,) = go(function, [config], tmp_path, thread)
    assert run.status == "failed"
    word = name if name != "\ud800" else r"the name of the value '\ud800' must be text"
    assert word in run.error
    assert "must" in run.error


def surrogate(name):
    return {"\ud800": 1.0}


def test_a_field_whose_name_cannot_be_written_is_refused(tmp_path, thread):
    with pytest.raises(ValueError, match=r"^configs: the name of the field .* UTF-8"):
        go(constant, [{"\ud800": 1}], tmp_path, thread)


def test_numbers_that_are_equal_but_not_the_same_are_other_runs(tmp_path, thread):
    """To Python, True, 1 and 1.0 are equal, as 0.0 and -0.0 are."""
    configs = [{"a": a} for a in (True, 1, 1.0, 0.0, -0.0, np.float32(0.1), 0.1)]
    runs = go(constant, configs, tmp_path, thread)
    assert go(constant, configs, tmp_path, thread) == runs
    assert count(tmp_path) == len(configs)
    assert [repr(run.config["a"]) for run in runs[:5]] == ["True", "1", "1.0", "0.0", "-0.0"]
    assert runs[5].config["a"] != 0.1


# Functions


def growing(entries):
    entries.append(0)
    return {"length": len(entries)}


def test_a_function_that_alters_its_config_has_altered_its_own_copy(tmp_path, thread):
    configs = [{"entries": [1, 2]}, {"entries": [3]}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = go(growing, configs, tmp_path, thread)
    assert [run.config["entries"] for run in runs] == [[1, 2], [3]]
    assert [run.values["length"] for run in runs] == [3, 2]


def elsewhere(folder):
    os.chdir(folder)
    return {"value": 1.0}


def test_a_function_that_changes_the_folder_leaves_the_store_where_it_is(
    tmp_path, thread, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / str(n) for n in range(3)]
    for folder in folders:
        folder.mkdir()
    go(elsewhere, [{"folder": str(folder)} for folder in folders], "runs", thread, workers=1)
    assert [str(p.parent) for p in tmp_path.rglob(store.FILE)] == [str(tmp_path / "runs")]
    assert count(tmp_path / "runs") == 3


DECORATED = """
import sweep_decorators
@sweep_decorators.twice
def value(number):
    return {{"value": number * {factor}}}
"""
DECORATOR = """
import functools
def twice(function):
    @functools.wraps(function)
    def inner(**config):
        return {name: {factor} * value for name, value in function(**config).items()}
    return inner
"""


def test_the_code_of_a_decorated_function_is_its_own_and_the_decorators(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    own, other = tmp_path / "sweep_decorated.py", tmp_path / "sweep_decorators.py"
    other.write_text(DECORATOR.replace("{factor}", "2"))
    own.write_text(DECORATED.format(factor=3))
    import sweep_decorated

    found = [grid.code_of(sweep_decorated.value, [])]
    own.write_text(DECORATED.format(factor=4))
    found.append(grid.code_of(sweep_decorated.value, []))
    other.write_text(DECORATOR.replace("{factor}", "5"))
    found.append(grid.code_of(sweep_decorated.value, []))
    assert len(set(found)) == 3
    del sys.modules["sweep_decorated"], sys.modules["sweep_decorators"]


def test_a_part_of_a_package_that_is_a_link_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for folder in ("sweep_linked", "outside"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "sweep_linked" / "part").symlink_to(tmp_path / "outside")
    before = sweep.code_version(["sweep_linked"])
    (tmp_path / "outside" / "__init__.py").write_text("x = 1\n")
    assert sweep.code_version(["sweep_linked"]) != before


def test_a_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch, thread):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sweep_broken").mkdir()
    (tmp_path / "sweep_broken" / "__init__.py").write_text("raise RuntimeError\n")
    (tmp_path / "sweep_broken" / "part.py").touch()
    with pytest.raises(ValueError, match=r"depends_on must name .* 'sweep_broken\.part'"):
        go(constant, [{"a": 1}], tmp_path, thread, depends_on=["sweep_broken.part"])


def test_a_file_that_says_to_be_of_tomorrow_is_no_edited_one(tmp_path):
    path = tmp_path / "sweep_tomorrow.py"
    path.write_text("def value(number):\n    return {'value': number}\n")
    os.utime(path, 2 * (time.time() + 86400,))
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import sweep_tomorrow
from flatminima import sweep
print(sweep.run(sweep_tomorrow.value, [{"number": 3}], sys.argv[1], workers=1)[0].values)
"""
    time.sleep(0.05)  # the clock of a file system may tick slowly
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "{'value': 3}\n", done.stderr


def test_workers_that_are_all_gone_cost_the_time_limit_and_no_more(tmp_path):
    executor = type("Gone", (), {"submit": lambda *_: concurrent.futures.Future()})()
    runs = go(constant, [{"a": n} for n in range(3)], tmp_path, executor, time_limit=0.2)
    assert [run.error for run in runs] == ["it took longer than 0.2 s"] * 3
    assert count(tmp_path) == 3


# Folders and files


@pytest.mark.parametrize("name", ["ä ö 100 % ?#'\"; DROP TABLE runs", "link", "x" * 300, "broken"])
def test_a_folder_of_any_name_holds_the_runs_or_is_refused(tmp_path, thread, name):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    if name in ("broken", "x" * 300):
        with pytest.raises(sweep.SweepError, match="cannot be opened"):
            go(constant, [{"a": 1}], tmp_path / name, thread)
    else:
        go(constant, [{"a": 1}], tmp_path / name, thread)
        assert count(tmp_path / name) == 1


@pytest.mark.parametrize("what", ["folder", "schema", "file"])
def test_a_store_that_is_none_is_refused(tmp_path, thread, what):
    if what == "folder":
        (tmp_path / store.FILE).mkdir()
    elif what == "file":
        (tmp_path / "sweeps").touch()
    else:
        with closing(sqlite3.connect(tmp_path / store.FILE)) as database:
            database.execute("CREATE TABLE runs (number INTEGER)")
    with pytest.raises(sweep.SweepError, match=r"cannot be (opened|written) .* 0 of 1 runs"):
        go(constant, [{"a": 1}], tmp_path, thread)


def test_a_run_of_another_version_is_repeated(tmp_path, thread):
    (run,) = go(constant, [{"a": 1}], tmp_path, thread)
    with closing(sqlite3.connect(tmp_path / store.FILE)) as database, database:
        (key,) = database.execute("SELECT key FROM runs").fetchone()
        text = json.dumps(dataclasses.asdict(run) | {"host": "another"})
        database.execute("UPDATE runs SET run = ?, seal = ?", (text, store._seal(key, text)))
    with pytest.warns(UserWarning, match="it is repeated"):
        (again,) = go(constant, [{"a": 1}], tmp_path, thread)
    assert dataclasses.replace(again, started=run.started, seconds=run.seconds) == run


def overwritten(path, old, _):
    path.write_bytes(old)


def exchanged(path, old, _):
    path.unlink()
    path.write_bytes(old)


def without_log(path, old, folder):
    log = folder / f"{store.FILE}-wal"
    os.truncate(log, log.stat().st_size // 2)


@pytest.mark.parametrize("damage", [overwritten, exchanged, without_log, lambda p, *_: p.unlink()])
def test_whatever_happens_to_the_file_in_a_sweep_every_run_is_there_at_its_end(
    tmp_path, thread, damage
):
    """An older file put back over the new one, in place or not, or its log cut off."""
    go(constant, [{"a": 100}], tmp_path, thread)
    path, made = tmp_path / store.FILE, []
    old = path.read_bytes()

    def submit(executor, *call):
        made.append(call)
        if len(made) == 3:
            damage(path, old, tmp_path)
        return thread.submit(*call)

    executor = type("Damaging", (), {"submit": submit})()
    configs = [{"a": n} for n in range(6)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = go(constant, configs, tmp_path, executor, workers=1)
    repeated = functools.partial(pytest.fail, "a finished run is made again")
    executor = type("None", (), {"submit": lambda *_: repeated()})()
    assert go(constant, configs, tmp_path, executor) == runs
