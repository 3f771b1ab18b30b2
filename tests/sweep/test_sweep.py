"""Sweeps: runs stored once, resumed after any death, shared between processes, honest on faults."""

import concurrent.futures
import dataclasses
import io
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import sweep_examples
from sweep_examples import Config, Mixed, Thawed

from flatminima import sweep
from flatminima.sweep import grid, store, work

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


def files(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.is_file())


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
    assert len(files(tmp_path)) == 6
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
    before = {name: os.environ.get(name) for name in work.THREAD_VARIABLES}
    here = go(sweep_examples.square, CONFIGS, tmp_path / "here", thread)
    there = go(sweep_examples.square, CONFIGS, tmp_path / "there", workers=2)
    assert values(here) == values(there)
    (told,) = go(sweep_examples.threads, [Config(0)], tmp_path, workers=2)
    assert set(told.values) == set(work.THREAD_VARIABLES)
    assert set(told.values.values()) == {"1"}
    assert {name: os.environ.get(name) for name in work.THREAD_VARIABLES} == before


def test_a_run_records_what_made_it(tmp_path, thread):
    (run,) = go(sweep_examples.square, [Config(3)], tmp_path, thread)
    assert run.config == {"number": 3, "log": "", "seconds": 0.0}
    assert run.versions["python"] == sys.version.split()[0]
    assert run.device
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", run.started)


def test_arrays_and_tuples_of_a_config_become_lists(tmp_path, thread):
    (run,) = go(sweep_examples.described, [Mixed(np.float64(0.1), "a")], tmp_path, thread)
    assert run.config == {"rate": 0.1, "name": "a", "widths": [3, 2], "bias": True, "device": "cpu"}
    assert run.values == {"rate": 0.1, "widths": [3, 2]}


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


# The key of a run


def test_key_depends_on_experiment_config_and_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "sweep_dependency"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    (package / "part.py").write_text("y = 1\n")

    def key(experiment=sweep_examples.square, config=CONFIGS[1]):
        (found,) = grid.keyed(experiment, [config], ["sweep_dependency"])
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
    monkeypatch.setattr(grid, "_source", lambda path: b"altered")
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
        (sweep_examples.square, CONFIGS, {"depends_on": "flatminima"}, "a sequence of names"),
        (sweep_examples.square, CONFIGS, {"workers": 0}, "workers"),
    ],
)
def test_bad_arguments(tmp_path, thread, experiment, configs, options, message):
    with pytest.raises(ValueError, match=message):
        go(experiment, configs, tmp_path, thread, **options)
    assert not files(tmp_path)


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
    assert runs[4].values == {"loss": [1.0, None], "fine": 1.0}
    assert "the value loss must be a number" in runs[5].error
    assert runs[0].values == {"loss": 0.5, "unmeasured": None}
    for path in tmp_path.glob("*.json"):
        assert "NaN" not in path.read_text()
        assert "Infinity" not in path.read_text()
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


# Files that go wrong


def damage_number(content):
    return content.replace(b'"root": 1.0', b'"root": 1.1')


def damage_tail(content):
    return content[:-20]


def damage_all(content):
    return b""


def damage_shape(content):
    return b"[1, 2]"


@pytest.mark.parametrize("damage", [damage_number, damage_tail, damage_all, damage_shape])
def test_corrupt_file_is_found_set_aside_and_made_again(tmp_path, thread, damage):
    log = str(tmp_path / "log")
    folder = tmp_path / "runs"
    configs = [Config(n, log) for n in range(3)]
    runs = go(sweep_examples.square, configs, folder, thread)
    (path,) = (p for p in folder.glob("*.json") if '"root": 1.0' in p.read_text())
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(sweep.CorruptRunError, match="truncated or altered"):
        store.read(path)
    with pytest.warns(UserWarning, match="truncated or altered") as caught:
        again = go(sweep_examples.square, configs, folder, thread)
    assert "the run is repeated" in str(caught[0].message)
    assert values(again) == values(runs)
    assert starts(log) == {0: 1, 1: 2, 2: 1}
    assert path.with_suffix(".corrupt").read_bytes() == damaged


def test_full_disk_stops_the_sweep_and_leaves_nothing_half_written(tmp_path, thread, monkeypatch):
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(sweep.SweepError, match=r"No space left on device.* 2 of 6 runs are stored"):
        go(sweep_examples.square, CONFIGS, tmp_path, thread, workers=1)
    assert len(files(tmp_path)) == 2
    assert all(store.read(tmp_path / name).status == "done" for name in files(tmp_path))
    monkeypatch.setattr(os, "fsync", real)
    assert len(go(sweep_examples.square, CONFIGS, tmp_path, thread)) == 6


def test_limit_on_file_size_behaves_like_a_full_disk(tmp_path):
    resource = pytest.importorskip("resource")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    options = {"preexec_fn": limit, "stderr": subprocess.PIPE}
    sweeping = launch(tmp_path, "", 4, 0, **options)
    _, error = sweeping.communicate(timeout=HANGING)
    assert sweeping.returncode == 1
    assert b"SweepError" in error
    assert b"File too large" in error
    assert b"0 of 4 runs are stored" in error
    assert files(tmp_path) == []


def test_folder_that_cannot_be_made(tmp_path, thread):
    (tmp_path / "file").touch()
    with pytest.raises(sweep.SweepError, match="cannot be made"):
        go(sweep_examples.square, CONFIGS, tmp_path / "file" / "runs", thread)


def test_what_a_kill_while_writing_left_behind_is_removed(tmp_path, thread):
    (key,) = grid.keyed(sweep_examples.square, CONFIGS[:1], [])
    (tmp_path / f"{key}.json.abc.tmp").write_bytes(b"{")
    go(sweep_examples.square, CONFIGS[:1], tmp_path, thread)
    assert files(tmp_path) == [f"{key}.json"]


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
            for path in folder.glob("*.json"):
                run = store.read(path)
                finished[run.config["number"]] = run.values
        assert finished == expected
        configs = [Config(n, str(log), 0.01) for n in range(number)]
        log.unlink()
        stored = go(sweep_examples.square, configs, folder, thread)
        assert [run.values for run in stored] == [run.values for run in alone]
        assert not log.exists(), "a finished sweep ran something again"
        assert not list(folder.glob("*.tmp"))
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
    assert len(files(folder)) == number
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
    assert len(files(folder)) == 2


def test_a_stored_run_is_plain_json_with_its_checksum(tmp_path, thread):
    (run,) = go(sweep_examples.square, CONFIGS[2:3], tmp_path, thread)
    (path,) = tmp_path.glob("*.json")
    stored = json.loads(path.read_text())
    assert stored["run"] == dataclasses.asdict(run)
    assert stored["sha256"] == store._checksum(stored["run"])


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
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}
    assert in_a_notebook(tmp_path, 2) == [["done", n**2] for n in range(3)]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")} == written
    # A change in another function, which the first one names.
    assert in_a_notebook(tmp_path, 3) == [["done", n**3] for n in range(3)]
    assert len(list((tmp_path / "runs").glob("*.json"))) == 2 * len(written) == 6


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
