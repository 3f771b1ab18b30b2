"""Sweeps: runs stored once, resumed after any death, shared between processes, honest on faults."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import sweep_examples
from sweep_examples import Config, Mixed, Thawed

from flatminima import sweep
from flatminima.sweep import grid, pool, store, work

HERE = Path(sweep_examples.__file__).parent
CONFIGS = [Config(n) for n in range(6)]
HANGING = 600
"""Seconds after which something will never happen, on a machine however busy."""


@pytest.fixture
def thread():
    """One thread of this process: the quickest executor there is."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


def go(experiment, configs, folder, executor=None, **options):
    return sweep.run(experiment, configs, folder, executor=executor, progress=False, **options)


def values(runs):
    return [(run.config, run.status, run.values) for run in runs]


def stored(folder):
    """Key -> run, as they are in the file."""
    path = Path(folder) / store.FILE
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("SELECT name FROM sqlite_master WHERE name = 'runs'").fetchall():
            return {}
        rows = database.execute("SELECT key, run, seal FROM runs").fetchall()
    assert all(seal == store._seal(key, text) for key, text, seal in rows)
    return {key: json.loads(text) for key, text, _ in rows}


def starts(log):
    """How often each number was started, by the log of the runs."""
    text = Path(log).read_text(encoding="utf-8") if Path(log).exists() else ""
    return Counter(int(number) for number in re.findall(r"^start (\d+) \d+$", text, re.M))


def launch(folder, log, number, seconds, name="square", **options):
    command = [sys.executable, HERE / "sweep_examples.py", folder, log, number, seconds, name]
    return subprocess.Popen([str(part) for part in command], cwd=HERE, **options)


def wait_until(condition):
    limit = time.monotonic() + HANGING
    while not condition():
        assert time.monotonic() < limit, "timed out"
        time.sleep(0.01)


# What a sweep returns and keeps


def test_runs_come_back_in_the_order_of_the_configs_and_are_stored(tmp_path, thread):
    runs = go(sweep_examples.square, CONFIGS, tmp_path, thread)
    assert [run.config["number"] for run in runs] == list(range(6))
    assert [run.values["root"] for run in runs] == [math.sqrt(n) for n in range(6)]
    assert all(run.status == "done" and run.error is None and run.seconds >= 0 for run in runs)
    assert len(stored(tmp_path)) == 6
    assert go(sweep_examples.square, CONFIGS, tmp_path, thread) == runs
    assert go(sweep_examples.square, [], tmp_path, thread) == []


def test_a_stored_run_is_not_repeated_and_a_new_config_is_made(tmp_path, thread):
    log = str(tmp_path / "log")
    configs = [Config(n, log) for n in range(4)]
    first = go(sweep_examples.square, configs[:2], tmp_path / "runs", thread)
    both = go(sweep_examples.square, configs, tmp_path / "runs", thread)
    assert both[:2] == first
    assert starts(log) == dict.fromkeys(range(4), 1)


def test_processes_of_its_own_agree_with_a_thread_and_have_one_thread_each(tmp_path, thread):
    before = {name: os.environ.get(name) for name in pool.THREAD_VARIABLES}
    here = go(sweep_examples.square, CONFIGS, tmp_path / "here", thread)
    there = go(sweep_examples.square, CONFIGS, tmp_path / "there", workers=2)
    assert values(here) == values(there)
    (told,) = go(sweep_examples.threads, [Config(0)], tmp_path, workers=2)
    assert set(told.values) == set(pool.THREAD_VARIABLES)
    assert set(told.values.values()) == {"1"}
    assert {name: os.environ.get(name) for name in pool.THREAD_VARIABLES} == before


def test_a_run_records_what_made_it(tmp_path, thread):
    (run,) = go(sweep_examples.square, [Config(3)], tmp_path, thread)
    assert run.config == {"number": 3, "log": "", "seconds": 0.0}
    assert run.versions["python"] == sys.version.split()[0]
    assert run.device
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", run.started)


def test_arrays_and_tuples_of_a_config_become_lists(tmp_path, thread):
    (run,) = go(sweep_examples.described, [Mixed(np.float64(0.1), "a")], tmp_path, thread)
    assert run.config == {"rate": 0.1, "name": "a", "widths": [3, 2], "bias": True, "device": "cpu"}
    assert run.values == {"speed": 0.1, "layers": [3, 2]}


def test_executor_of_the_caller_stays_open(tmp_path, thread):
    go(sweep_examples.square, CONFIGS, tmp_path, thread)
    assert thread.submit(int).result() == 0


def test_a_dask_cluster_through_its_executor(tmp_path, thread):
    distributed = pytest.importorskip("distributed")
    here = go(sweep_examples.square, CONFIGS, tmp_path / "here", thread)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options, worker_dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        there = go(sweep_examples.square, CONFIGS, tmp_path / "there", client.get_executor())
        faults = go(sweep_examples.troubled, CONFIGS, tmp_path / "faults", client.get_executor())
    assert values(there) == values(here)
    assert values(faults) == values(go(sweep_examples.troubled, CONFIGS, tmp_path / "f", thread))


def test_progress_bar_counts_what_was_stored_and_shows_the_time_left(tmp_path, thread, monkeypatch):
    configs = [Config(n, seconds=0.15) for n in range(10)]
    go(sweep_examples.square, configs[:4], tmp_path, thread)
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    sweep.run(sweep_examples.square, configs, tmp_path, executor=thread, progress="squares")
    text = screen.getvalue()
    assert "squares" in text
    assert "4/10" in text
    assert "10/10" in text
    assert re.search(r"\d\d:\d\d<00:0\d", text), "no time left is shown"


def test_a_run_that_takes_long_shows_that_it_is_alive(tmp_path, thread, monkeypatch):
    monkeypatch.setattr(work, "BEAT", 0.1)
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    sweep.run(sweep_examples.square, [Config(0, seconds=1.5)], tmp_path, executor=thread)
    assert re.search(r"0/1 .*running=1, longest=\d s", screen.getvalue())


# The key of a run


def test_key_depends_on_experiment_config_and_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "sweep_dependency"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    (package / "part.py").write_text("y = 1\n")

    def key(experiment=sweep_examples.square, config=CONFIGS[1]):
        code = grid.code_of(experiment, ["sweep_dependency"])
        (found,) = grid.keyed(experiment, [config], code)
        return found

    first = key()
    assert key() == first
    assert key(sweep_examples.troubled) != first
    assert key(config=Config(2)) != first
    assert key(config=Config(1, seconds=1e-300)) != first
    (package / "part.py").write_bytes(b"y = 1\r\n")
    assert key() == first, "the ends of lines say nothing"
    (package / "part.py").write_text("y = 2\n")
    assert key() != first
    own = key()
    (package / "inner").mkdir()
    (package / "part.py").rename(package / "inner" / "part.py")
    assert key() != own, "a module elsewhere is another module"
    own = key()
    monkeypatch.setattr(grid, "_hash", lambda path: "altered")
    assert key() != own


def test_changed_dependency_repeats_the_run(tmp_path, monkeypatch, thread):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sweep_module.py").write_text("x = 1\n")
    log = str(tmp_path / "log")
    for text in ("x = 1\n", "x = 2\n", "x = 1\n"):
        (tmp_path / "sweep_module.py").write_text(text)
        options = {"depends_on": ["sweep_module"]}
        go(sweep_examples.square, [Config(7, log)], tmp_path / "runs", thread, **options)
    assert starts(log) == {7: 2}, "what the first version gave is still stored"


@pytest.mark.parametrize(
    ("experiment", "configs", "options", "message"),
    [
        (lambda config: {}, CONFIGS, {}, "top of a module"),
        (math.sqrt, CONFIGS, {}, "top of a module"),
        (sweep_examples.square, [Thawed(1)], {}, "frozen dataclass"),
        (sweep_examples.square, [Config], {}, "frozen dataclass"),
        (sweep_examples.square, [Config(1), Config(1)], {}, "twice"),
        (sweep_examples.square, [Config(math.nan)], {}, "must be finite"),
        (sweep_examples.square, [Config({})], {}, "the field number must be a number"),
        (sweep_examples.square, CONFIGS, {"depends_on": ["no_such_module"]}, "no_such_module"),
        (sweep_examples.square, CONFIGS, {"depends_on": ["math"]}, "'math'"),
        (sweep_examples.square, CONFIGS, {"depends_on": "flatminima"}, "depends_on must be a seq"),
        (sweep_examples.square, CONFIGS, {"workers": 0}, "workers"),
        (sweep_examples.square, CONFIGS, {"time_limit": 0}, "time_limit"),
        (sweep_examples.square, [Config(10**5000)], {}, "the field number must be a number of 64"),
        (sweep_examples.square, [Config("\ud800")], {}, "written as UTF-8"),
    ],
)
def test_bad_arguments(tmp_path, thread, experiment, configs, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        go(experiment, configs, tmp_path, thread, **options)
    assert not stored(tmp_path)


def test_forked_processes_are_refused(tmp_path):
    context = multiprocessing.get_context("fork")
    with (
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor,
        pytest.raises(ValueError, match="spawn"),
    ):
        go(sweep_examples.square, CONFIGS, tmp_path, executor)


# Runs that go wrong


def test_failed_and_diverged_runs_are_recorded_and_do_not_stop_the_others(tmp_path, thread):
    runs = go(sweep_examples.troubled, CONFIGS, tmp_path, thread)
    assert [run.status for run in runs] == ["done", "failed", *3 * ["diverged"], "failed"]
    assert "ZeroDivisionError: one is not a number here" in runs[1].error
    assert (runs[2].error, runs[2].values) == ("at step 7", {"loss": 3.0, "peak": None})
    assert (runs[3].error, runs[3].values) == ("not finite: loss", {"loss": None, "fine": 1.0})
    assert runs[4].values == {"losses": [1.0, None], "fine": 1.0}
    assert "the value loss must be a number" in runs[5].error
    assert runs[0].values == {"loss": 0.5, "unmeasured": None}
    assert "NaN" not in str(stored(tmp_path))
    assert go(sweep_examples.troubled, CONFIGS, tmp_path, thread) == runs


def test_failed_runs_are_repeated_on_request(tmp_path, thread):
    flag = tmp_path / "flag"
    configs = [Config(0, str(flag))]
    assert go(sweep_examples.fails_once, configs, tmp_path, thread)[0].status == "failed"
    flag.touch()
    assert go(sweep_examples.fails_once, configs, tmp_path, thread)[0].status == "failed"
    again = go(sweep_examples.fails_once, configs, tmp_path, thread, retry_failed=True)
    assert again[0].status == "done"
    assert go(sweep_examples.fails_once, configs, tmp_path, thread) == again


def test_a_run_that_ends_its_process_is_recorded_as_failed(tmp_path):
    runs = go(sweep_examples.deadly, CONFIGS, tmp_path, workers=2)
    assert [run.status for run in runs] == ["done", "failed", *4 * ["done"]]
    assert "its process died twice" in runs[1].error


def test_an_executor_that_breaks_or_is_closed_stops_the_sweep_clearly(tmp_path):
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor,
        pytest.raises(sweep.SweepError, match=r"executor broke.* 1 of 6 runs are stored"),
    ):
        go(sweep_examples.deadly, CONFIGS, tmp_path, executor, workers=1)
    closed = concurrent.futures.ThreadPoolExecutor(1)
    closed.shutdown()
    with pytest.raises(sweep.SweepError, match="takes no runs"):
        go(sweep_examples.square, CONFIGS, tmp_path, closed)
    assert len(go(sweep_examples.deadly, CONFIGS, tmp_path, workers=1)) == 6


@pytest.mark.parametrize("threads", [True, False])
def test_a_run_cannot_end_or_interrupt_the_sweep(tmp_path, thread, threads):
    executor = thread if threads else None
    runs = go(sweep_examples.leaves, CONFIGS, tmp_path, executor, workers=2)
    assert [run.status for run in runs] == ["done", "failed", "failed", "diverged", *2 * ["done"]]
    assert "SystemExit" in runs[1].error
    assert "KeyboardInterrupt" in runs[2].error
    assert (runs[3].error, runs[3].values) == ("\\ud800", {"root": 1.0})
    assert len(stored(tmp_path)) == 6


def test_values_that_no_table_holds_are_refused_at_their_run_by_name(tmp_path, thread):
    runs = go(sweep_examples.odd, [Config(n) for n in range(11)], tmp_path, thread, workers=1)
    assert [run.status for run in runs] == ["done"] + 10 * ["failed"]
    shape = "the value x must have entries of one shape and kind"
    told = ["a number of 64 bits", "is text here, and numbers in other runs", "written as UTF-8"]
    told += 3 * [shape] + 3 * ["the value x must be a number"] + ["must be named by strings"]
    assert all(words in run.error for words, run in zip(told, runs[1:], strict=True))
    assert all("x" in run.error for run in runs[1:-1])
    assert go(sweep_examples.odd, [Config(n) for n in range(11)], tmp_path, thread) == runs


def test_a_run_that_takes_too_long_is_ended_and_recorded(tmp_path, thread):
    runs = go(sweep_examples.slow, CONFIGS[:3], tmp_path / "own", workers=2, time_limit=3)
    assert [run.status for run in runs] == ["done", "failed", "done"]
    assert runs[1].error == "it took longer than 3 s"
    # An executor of somebody else's is not waited for.
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        options = {"workers": 2, "time_limit": 1}
        runs = go(
            sweep_examples.gated, [Config(0, str(tmp_path / "log"))], tmp_path, executor, **options
        )
        (tmp_path / "log.open").touch()
    assert runs[0].error == "it took longer than 1 s"


def test_an_interrupt_ends_the_sweep_at_once_and_keeps_what_had_finished(tmp_path):
    log, folder = tmp_path / "log", tmp_path / "runs"
    # A shell without job control starts what is in the background deaf to Ctrl-C.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    options = {"stderr": subprocess.PIPE, "preexec_fn": heard}
    sweeping = launch(folder, log, 2, 0, "slow", **options)
    wait_until(lambda: stored(folder))
    began = time.monotonic()
    sweeping.send_signal(signal.SIGINT)
    _, error = sweeping.communicate(timeout=HANGING)
    assert time.monotonic() - began < HANGING / 10
    assert b"KeyboardInterrupt" in error
    assert [run["config"]["number"] for run in stored(folder).values()] == [0]


# Code that is not what it seems


MODULE = """
import sys
from flatminima import sweep
def value(number):
    return {{"value": number * {factor}}}
"""


def test_a_worker_that_runs_other_code_than_the_disk_holds_is_an_error(tmp_path):
    """A worker that lives long has imported what was in the file then."""
    program = """
import os, pathlib, sys, time
from concurrent.futures import ThreadPoolExecutor
from flatminima import sweep
sys.path.insert(0, sys.argv[1])
path = pathlib.Path(sys.argv[1]) / "long_lived.py"
import long_lived
with ThreadPoolExecutor(1) as executor:
    go = lambda number: sweep.run(long_lived.value, [{"number": number}], sys.argv[1] + "/runs",
                                  executor=executor, progress=False)
    print(go(1)[0].values)
    path.touch()
    print(go(3)[0].values)
    past = path.stat().st_mtime - 1000
    path.write_text(path.read_text().replace("* 2", "* 3"))
    os.utime(path, (past, past))
    try:
        print(go(2)[0].values)
    except sweep.SweepError as error:
        print(error)
"""
    path = tmp_path / "long_lived.py"
    path.write_text(MODULE.format(factor=2))
    time.sleep(0.05)
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, touched, second = done.stdout.splitlines()
    assert (first, touched) == ("{'value': 2}", "{'value': 6}")
    assert re.match(r".*long_lived\.py was edited after a worker had begun to run it", second)
    assert len(stored(tmp_path / "runs")) == 2, "nothing of the new code is stored"


# Files that go wrong


ALTER = {
    "number": """UPDATE runs SET run = replace(run, '"root": 1.0', '"root": 1.1')""",
    "tail": """UPDATE runs SET run = substr(run, 1, 99) WHERE run LIKE '%"root": 1.0%'""",
    "kind": """UPDATE runs SET run = 7 WHERE run LIKE '%"root": 1.0%'""",
    "exchange": """UPDATE runs SET (run, seal) = (SELECT run, seal FROM runs WHERE run LIKE
        '%"root": 0.0%') WHERE run LIKE '%"root": 1.0%'""",
}


@pytest.mark.parametrize("damage", ALTER)
def test_an_altered_run_is_found_set_aside_and_made_again(tmp_path, thread, damage):
    log = str(tmp_path / "log")
    folder = tmp_path / "runs"
    configs = [Config(n, log) for n in range(3)]
    runs = go(sweep_examples.square, configs, folder, thread)
    with closing(sqlite3.connect(folder / store.FILE)) as database, database:
        assert database.execute(ALTER[damage]).rowcount > 0
    with pytest.warns(UserWarning, match=r"number=1.* is altered; it is repeated"):
        again = go(sweep_examples.square, configs, folder, thread)
    assert values(again) == values(runs)
    assert starts(log) == {0: 1, 1: 2, 2: 1}
    with closing(sqlite3.connect(folder / store.FILE)) as database:
        assert database.execute("SELECT count(*) FROM damaged").fetchone() == (1,)


@pytest.mark.search
def test_a_file_with_flipped_bits_gives_the_same_runs_or_makes_them_anew(
    tmp_path, thread, generator
):
    folder, configs = tmp_path / "runs", [Config(n) for n in range(30)]
    runs = go(sweep_examples.square, configs, folder, thread)
    content = (folder / store.FILE).read_bytes()
    kept = 0
    for _ in range(40):
        shutil.rmtree(folder)
        folder.mkdir()
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[generator.integers(len(damaged))] ^= 1 << generator.integers(8)
        (folder / store.FILE).write_bytes(damaged.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = go(sweep_examples.square, configs, folder, thread)
        assert values(again) == values(runs)
        kept += sum(before == after for before, after in zip(runs, again, strict=True))
    assert kept > 0.9 * 40 * len(runs), "one bit costs a page of the file at most"


def test_a_file_whose_index_lies_is_found(tmp_path, thread, generator):
    """SQLite's quick check passes, and a run that is there is not found by its key."""
    runs = go(sweep_examples.square, CONFIGS, tmp_path, thread)
    path = tmp_path / store.FILE
    content = path.read_bytes()

    def passes(check):
        with closing(sqlite3.connect(path)) as database, contextlib.suppress(sqlite3.Error):
            return database.execute(f"PRAGMA {check}").fetchall() == [("ok",)]

    while not passes("quick_check") or passes("integrity_check"):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[generator.integers(len(damaged))] ^= 1 << generator.integers(8)
        path.write_bytes(damaged.tobytes())
    with pytest.warns(UserWarning, match="is damaged"):
        assert values(go(sweep_examples.square, CONFIGS, tmp_path, thread)) == values(runs)


def test_full_disk_stops_the_sweep_and_leaves_nothing_half_written(tmp_path, thread, monkeypatch):
    connect = store._connected

    def small(path):
        database = connect(path)
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages + 4}")
        return database

    monkeypatch.setattr(store, "_connected", small)
    configs = [Config(n) for n in range(200)]
    with pytest.raises(sweep.SweepError, match=r"disk is full.* \d+ of 200 runs are stored"):
        go(sweep_examples.square, configs, tmp_path, thread, workers=1)
    there = stored(tmp_path)
    assert 0 < len(there) < 200
    assert all(run["status"] == "done" for run in there.values())
    monkeypatch.setattr(store, "_connected", connect)
    assert len(go(sweep_examples.square, configs, tmp_path, thread)) == 200
    assert there.items() <= stored(tmp_path).items()


def test_limit_on_file_size_behaves_like_a_full_disk(tmp_path):
    resource = pytest.importorskip("resource")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    options = {"preexec_fn": limit, "stderr": subprocess.PIPE}
    sweeping = launch(tmp_path, "", 4, 0, **options)
    _, error = sweeping.communicate(timeout=HANGING)
    assert sweeping.returncode == 1
    assert b"SweepError" in error
    assert b"0 of 4 runs are stored" in error


def test_a_folder_that_is_removed_meanwhile_is_made_again_with_every_run(tmp_path, thread):
    folder, made = tmp_path / "runs", []

    def remove(executor, function, *arguments):
        made.append(1)
        if len(made) in (3, 6):
            shutil.rmtree(folder)
        return thread.submit(function, *arguments)

    executor = type("Removing", (), {"submit": remove})()
    runs = go(sweep_examples.square, CONFIGS, folder, executor, workers=1)
    assert len(stored(folder)) == len(runs) == 6
    log = stored(folder)
    assert go(sweep_examples.square, CONFIGS, folder, thread) == runs
    assert stored(folder) == log


def test_a_bar_that_cannot_be_shown_is_no_reason_to_stop(tmp_path, thread, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    closed = io.StringIO()
    closed.close()
    for number, screen in enumerate((Broken(), closed, None)):
        monkeypatch.setattr(sys, "stderr", screen)
        runs = sweep.run(sweep_examples.square, CONFIGS, tmp_path / str(number), executor=thread)
        assert len(runs) == 6


def test_many_runs_cost_what_few_do(tmp_path, thread):
    """Statements to the database for each run; they do not grow with the number of runs."""
    counts = {}
    for number in (20, 200):
        with pytest.MonkeyPatch.context() as patch:
            statements = []
            connect = store._connected

            def traced(path, connect=connect, statements=statements):
                database = connect(path)
                database.set_trace_callback(statements.append)
                return database

            patch.setattr(store, "_connected", traced)
            configs = [{"number": n} for n in range(number)]
            # One at a time: of two, those that end together are stored together.
            go(sweep_examples.twice, configs, tmp_path / str(number), thread, workers=1)
        counts[number] = len(statements) / number
        assert len(list((tmp_path / str(number)).rglob("*"))) <= 4
    assert counts[200] <= counts[20]


def test_folder_that_cannot_be_made(tmp_path, thread):
    (tmp_path / "file").touch()
    with pytest.raises(sweep.SweepError, match="cannot be opened"):
        go(sweep_examples.square, CONFIGS, tmp_path / "file" / "runs", thread)


# Death and company


# The moments are the same each time, and others in a search; what must hold holds at any.
@pytest.mark.search
def test_killed_at_any_moment_it_resumes_and_repeats_nothing_that_finished(
    tmp_path, thread, generator
):
    log, number, kills, attempt = tmp_path / "log", 400, 0, 0
    alone = go(sweep_examples.square, [Config(n) for n in range(number)], tmp_path / "one", thread)
    expected = {run.config["number"]: run.values for run in alone}
    workers: set[int] = set()
    while kills < 20:
        # A sweep that finishes between two kills makes room for another.
        attempt += 1
        folder, finished = tmp_path / str(attempt), {}
        folder.mkdir()
        while len(finished) < number:
            log.unlink(missing_ok=True)
            sweeping = launch(folder, log, number, 0.01, start_new_session=True)
            if kills < 20:
                # Over half of the time the parent alone dies, and must not leave workers behind.
                with_children = generator.random() < 0.4
                try:
                    # From before the first run starts to well into the sweep.
                    sweeping.wait(generator.uniform(0.1, 1.3))
                except subprocess.TimeoutExpired:
                    kills += 1
                    if with_children:
                        os.killpg(sweeping.pid, signal.SIGKILL)
                    else:
                        sweeping.kill()
            assert sweeping.wait(HANGING) in (0, -signal.SIGKILL)
            again = set(starts(log)) & set(finished)
            assert not again
            text = log.read_text() if log.exists() else ""
            workers |= {int(pid) for pid in re.findall(r"^start \d+ (\d+)$", text, re.M)}
            finished = {r["config"]["number"]: r["values"] for r in stored(folder).values()}
        assert finished == expected
        configs = [Config(n, str(log), 0.01) for n in range(number)]
        log.unlink()
        runs = go(sweep_examples.square, configs, folder, thread)
        assert [run.values for run in runs] == [run.values for run in alone]
        assert not log.exists(), "a finished sweep ran something again"
        assert sum(path.is_file() for path in folder.rglob("*")) <= 3 + kills
    wait_until(lambda: not any(alive(pid) for pid in workers))


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_two_sweeps_at_once_share_the_runs(tmp_path):
    log, folder, number = tmp_path / "log", tmp_path / "runs", 60
    both = [launch(folder, log, number, 0, "gated") for _ in range(2)]
    # Two workers of each have taken a run before any may finish.
    wait_until(lambda: sum(starts(log).values()) == 4)
    log.with_name("log.open").touch()
    assert [sweeping.wait(HANGING) for sweeping in both] == [0, 0]
    assert starts(log) == dict.fromkeys(range(number), 1)
    assert len(stored(folder)) == number
    pids = re.findall(r"^start \d+ (\d+)$", log.read_text(), re.M)
    assert len(set(pids)) == 4


def test_survivor_takes_over_the_runs_of_a_killed_sweep(tmp_path):
    log, folder = tmp_path / "log", tmp_path / "runs"
    first = launch(folder, log, 2, 0, "gated")
    wait_until(lambda: len(starts(log)) == 2)
    second = launch(folder, log, 2, 0, "gated")
    wait_until(lambda: log.read_text().count("refused") >= 6)
    assert sum(starts(log).values()) == 2, "the second sweep did not wait for the first"
    first.kill()
    first.wait()
    log.with_name("log.open").touch()
    assert second.wait(HANGING) == 0
    assert starts(log) == {0: 2, 1: 2}
    assert len(stored(folder)) == 2


def test_a_stored_run_is_plain_json(tmp_path, thread):
    (run,) = go(sweep_examples.square, CONFIGS[2:3], tmp_path, thread)
    assert list(stored(tmp_path).values()) == [dataclasses.asdict(run)]


# --- in a notebook


CELLS = """
from dataclasses import dataclass
import json
from flatminima import sweep

@dataclass(frozen=True)
class Config:
    n: int

def square(n):
    return n**{power}

def experiment(config):
    return {{"value": square(config.n)}}

runs = sweep.run(experiment, [Config(n) for n in range(3)], {folder!r}, progress=False)
print(json.dumps([[run.status, run.values["value"]] for run in runs]))
"""


def in_a_notebook(tmp_path, power):
    """The cell as IPython runs it: its text is in no file. Returns what it printed."""
    code = CELLS.format(power=power, folder=str(tmp_path / "runs"))
    program = "from IPython.testing.globalipapp import start_ipython\nshell = start_ipython()\n"
    program += f"shell.run_cell({code!r}).raise_error()"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_a_function_typed_into_a_notebook_is_run_and_not_repeated(tmp_path):
    assert in_a_notebook(tmp_path, 2) == [["done", n**2] for n in range(3)]
    written = stored(tmp_path / "runs")
    assert in_a_notebook(tmp_path, 2) == [["done", n**2] for n in range(3)]
    assert stored(tmp_path / "runs") == written
    # A change in another function, which the first one names.
    assert in_a_notebook(tmp_path, 3) == [["done", n**3] for n in range(3)]
    assert len(stored(tmp_path / "runs")) == 2 * len(written) == 6


# --- configs without a class


def power(base, exponent=2):
    return {"value": base**exponent}


def test_a_config_may_be_a_dict_whose_values_are_keywords(tmp_path, thread):
    grid = [{"base": 3}, {"base": 3, "exponent": 3}, {"base": 3, "sign": 1}]
    runs = go(power, grid, tmp_path, thread)
    assert [run.values.get("value") for run in runs] == [9, 27, None]
    assert [run.config for run in runs] == grid
    assert "unexpected keyword argument 'sign'" in runs[2].error
    assert go(power, grid, tmp_path, thread) == runs
    with pytest.raises(ValueError, match="twice"):
        go(power, [{"base": 1}, {"base": 1}], tmp_path, thread)
    with pytest.raises(ValueError, match="a dict of names"):
        go(power, [{1: 1}], tmp_path, thread)


def test_a_dict_runs_in_other_processes_too(tmp_path):
    runs = go(sweep_examples.twice, [{"number": n} for n in range(3)], tmp_path, workers=2)
    assert [run.values["value"] for run in runs] == [0, 2, 4]
