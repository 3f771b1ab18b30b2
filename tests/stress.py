"""What may go wrong while files are written and read, done to them many times over.

    python tests/stress.py [--times N] [--seed N] [PART ...]

kills the programs that write (sweeps, tables, checkpoints, chapters, downloads) at random moments,
flips bits in every kind of file, and fetches from servers that misbehave. What survives goes on
from where it was or says what is wrong, and never gives wrong data. The table at the end counts;
the exit status is 1 if something did not survive. The tests hold one case of each kind; this holds
what takes minutes.
"""

import argparse
import contextlib
import functools
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "support"), str(HERE.parent / "tools")]

import execute  # noqa: E402
import nbformat  # noqa: E402
import sweep_examples  # noqa: E402
import test_datasets  # noqa: E402
import torch  # noqa: E402

from flatminima import datasets, models, sweep  # noqa: E402
from flatminima.curvature import EmpiricalRisk  # noqa: E402
from flatminima.sweep import store as database  # noqa: E402
from flatminima.training import CorruptCheckpointError, gradient_descent  # noqa: E402
from study import ROOT, results  # noqa: E402

Trials = Iterator[bool]
"""Of each fault, whether it was survived."""


# --- what is done


def killed(work: Callable[[], object], seconds: float) -> None:
    """Do the work in a process of its own, and kill that after some time unless it has ended."""
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one bit turned."""
    bits = np.frombuffer(content, np.uint8).copy()
    bits[rng.integers(len(bits))] ^= 1 << rng.integers(8)
    return bits.tobytes()


# --- sweeps


def grid(number: int) -> list[dict[str, int]]:
    return [{"number": n} for n in range(number)]


def swept(folder: Path, number: int) -> list[sweep.Run]:
    with ThreadPoolExecutor(1) as thread:
        return sweep.run(
            sweep_examples.twice, grid(number), folder, executor=thread, progress=False
        )


def right(runs: list[sweep.Run]) -> bool:
    return [run.values for run in runs] == [{"value": 2 * n} for n in range(len(runs))]


def kept(folder: Path) -> dict[str, str]:
    """Key -> run, as text, of all that are stored."""
    if not (folder / database.FILE).exists():
        return {}
    with contextlib.closing(database._connected(folder / database.FILE)) as file:
        return dict(file.execute("SELECT key, run FROM runs"))


def kills_of_sweeps(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    """Two worker processes; what had been stored is there after the kill, and is not made again."""
    number, before, log = 150, {}, folder / "log"
    for _ in range(times):
        command = [sys.executable, HERE / "support/sweep_examples.py", folder, log, number, 0.005]
        program = subprocess.Popen([*map(str, command), "square"], stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(rng.uniform(0.1, 1.5))
        program.kill()
        program.wait()
        after = kept(folder)
        yield before.items() <= after.items()
        before = after
        if len(after) == number:
            (folder / database.FILE).unlink()
            before = {}


def kills_of_stores(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    """Runs that take no time, so that the kill comes while they are written."""
    before: dict[str, str] = {}
    for _ in range(times):
        killed(lambda: swept(folder, 500), rng.uniform(0.0, 0.15))
        after = kept(folder)
        yield before.items() <= after.items()
        before = after
    yield right(swept(folder, 500))


def flips_of_stores(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    """The same runs come back, from the file or made anew."""
    swept(folder, 30)
    content = (folder / database.FILE).read_bytes()
    for _ in range(times):
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / database.FILE).write_bytes(flipped(content, rng))
        yield right(swept(folder, 30))


def flips_of_logs(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    """The write-ahead log that a kill leaves: what it no longer says is made anew."""

    def cut_short() -> None:
        with ThreadPoolExecutor(1) as thread:

            def submit(executor: object, function: Callable, *arguments: object) -> object:
                if arguments[1] == {"number": 29}:
                    os.kill(os.getpid(), signal.SIGKILL)
                return thread.submit(function, *arguments)

            executor, options = type("Cut", (), {"submit": submit})(), {"progress": False}
            sweep.run(
                sweep_examples.twice, grid(30), folder, executor=executor, workers=1, **options
            )

    killed(cut_short, 5.0)
    log, names = f"{database.FILE}-wal", (database.FILE, f"{database.FILE}-wal")
    content = {name: (folder / name).read_bytes() for name in names}
    for _ in range(times):
        shutil.rmtree(folder)
        folder.mkdir()
        for name, there in content.items():
            (folder / name).write_bytes(flipped(there, rng) if name == log else there)
        yield right(swept(folder, 30))


# --- tables


def tables(folder: Path) -> list[results.Result]:
    """Three results of one name, of 1, 2 and 3 rows."""
    experiment = results.Experiment("example", "", sweep_examples.twice, lambda _: [], (), {})
    with ThreadPoolExecutor(1) as thread:
        options = {"runs": folder / "runs", "executor": thread, "progress": False}
        return [results.compute(experiment, grid(n), "ci", **options) for n in (1, 2, 3)]


def kills_of_tables(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    """One of the results is there, whole."""
    made = tables(folder)
    results.store(made[0], folder)
    for _ in range(times):
        order = rng.permutation(3)

        def write(order=order):
            while True:
                for i in order:
                    results.store(made[i], folder)

        killed(write, rng.uniform(0.0, 0.03))
        found = results.load("example", folder=folder)
        yield found.table.equals(made[len(found) - 1].table)


def flips_of_tables(suffix: str, folder: Path, times: int, rng: np.random.Generator) -> Trials:
    """The table and its record are read as they were, or not at all."""
    good = results.store(tables(folder)[2], folder)
    path = (folder / "ci/example").with_suffix(suffix)
    content = path.read_bytes()
    for _ in range(times):
        path.write_bytes(flipped(content, rng))
        try:
            read = results.load("example", folder=folder)
        except results.CorruptResultError:
            yield True
        else:
            yield read.table.equals(good.table) and read.provenance == good.provenance


# --- checkpoints


def trained(path: Path, steps: int) -> list[float]:
    model = models.mlp([3, 4, 2], seed=0)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(8, 3, generator=generator), torch.randn(8, 2, generator=generator)
    options = {"checkpoint": path, "checkpoint_every": 3, "progress": False}
    return gradient_descent(EmpiricalRisk(model, "mse", data), 0.1, steps, **options).loss.tolist()


def kills_of_checkpoints(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    """The run goes on to the loss it would have had, to the bit; and a kill costs few steps."""
    steps, path = 150, folder / "run.pt"
    expected = trained(folder / "whole.pt", steps)
    for i in range(times):
        killed(lambda: trained(path, steps), rng.uniform(0.0, 0.3))
        if i % 5 == 4:
            yield trained(path, steps) == expected
            path.unlink()
        else:
            yield not path.exists() or len(results_of(path)) > 0


def results_of(path: Path) -> list[float]:
    from flatminima.training import checkpoint

    return checkpoint.load(path)["losses"].tolist()


def flips_of_checkpoints(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    path = folder / "run.pt"
    expected = trained(path, 6)
    content = path.read_bytes()
    for _ in range(times):
        path.write_bytes(flipped(content, rng))
        try:
            yield trained(path, 6) == expected
        except CorruptCheckpointError:
            yield True


# --- chapters


def kills_of_chapters(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    """What is recorded as executed has outputs, of the chapter as it is."""
    for name in ("tools", "chapters", "src", "data"):
        (folder / name).mkdir()
    shutil.copy(ROOT / "tools/execute.py", folder / "tools")
    for name in ("_config.yml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / "pyproject.toml").write_text("")
    (folder / "_toc.yml").write_text("format: jb-book\nroot: chapters/one\n")
    (folder / "chapters/references.bib").write_text("")
    book, command = folder / "_book", [sys.executable, "tools/execute.py"]
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for i in range(times):
        cell = nbformat.v4.new_code_cell(f"print({i})", id="a")
        notebook = nbformat.v4.new_notebook(cells=[cell])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, folder / "chapters/one.ipynb")
        program = subprocess.Popen(command, start_new_session=True, **quiet)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(rng.uniform(0.3, 7.0))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        if i % 4 == 3:
            subprocess.run(command, check=True, **quiet)
        record = book / "executed.json"
        recorded = json.loads(record.read_bytes()) if record.exists() else {}
        copy = book / "chapters/one.ipynb"
        done = copy.exists() and nbformat.read(copy, 4).cells[0].outputs
        yield (not recorded and i % 4 != 3) or bool(done and done[0].text == f"{i}\n")


def flips_of_manifests(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    """A chapter counts as executed only with the outputs that were recorded."""
    copy, manifest = folder / "one.ipynb", folder / "executed.json"
    copy.write_bytes(rng.bytes(1000))
    with mock.patch.object(execute, "KEYS", manifest):
        execute.record({str(copy): "key"})
        contents = {path: path.read_bytes() for path in (copy, manifest)}
        good = ["key", execute.content(str(copy))]
        for i in range(times):
            for path, content in contents.items():
                path.write_bytes(flipped(content, rng) if (path == copy) == i % 2 else content)
            counts = execute.executed().get(str(copy)) == ["key", execute.content(str(copy))]
            yield not counts or good == ["key", execute.content(str(copy))]


# --- data


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The server of the tests, on a thread; its address."""
    serving = ThreadingHTTPServer(("127.0.0.1", 0), test_datasets.Handler)
    serving.requests = 0
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()
    serving.server_close()


@contextlib.contextmanager
def small_limits(cache: Path) -> Iterator[None]:
    """A cache of our own, no folder or mirror, and limits that are soon reached."""
    limits = {"LARGEST": 2**20, "LONGEST": 0.5, "PATIENCE": 0.2}
    with contextlib.ExitStack() as stack:
        for name, value in limits.items():
            stack.enter_context(mock.patch.object(datasets, name, value))
        stack.enter_context(mock.patch("pooch.os_cache", return_value=cache))
        for name in (datasets.FOLDER_VARIABLE, datasets.MIRROR_VARIABLE):
            os.environ.pop(name, None)
        yield


def fetched(home: str, kind: str) -> bytes:
    sums = map(test_datasets.sha256, (test_datasets.PACKED, test_datasets.CONTENT))
    return datasets._content(datasets._RemoteFile("x.gz", f"{home}/{kind}/", *sums))


def faults_of_servers(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    """An error that says what to do, nothing left in the cache, and the next try succeeds."""
    kinds = [*test_datasets.FAILING, *test_datasets.WRONG]
    with server() as home, small_limits(folder / "cache"):
        for i in range(times):
            try:
                fetched(home, kinds[i % len(kinds)])
                yield False
            except (datasets.DataUnavailableError, datasets.CorruptDataError):
                clean = not any((folder / "cache").iterdir())
                yield clean and fetched(home, "good") == test_datasets.CONTENT
            shutil.rmtree(folder / "cache")


def kills_of_downloads(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    """The file is in the cache whole, or not at all."""
    cache = folder / "cache"
    with server() as home, small_limits(cache):
        for _ in range(times):
            killed(lambda: fetched(home, "good"), rng.uniform(0.0, 0.02))
            left = cache / "x.gz"
            whole = not left.exists() or left.read_bytes() == test_datasets.PACKED
            yield whole and fetched(home, "good") == test_datasets.CONTENT
            shutil.rmtree(cache)


def flips_of_downloads(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    with small_limits(folder):
        for _ in range(times):
            (folder / "x.gz").write_bytes(flipped(test_datasets.PACKED, rng))
            try:
                yield fetched("http://127.0.0.1:9", "") == test_datasets.CONTENT
            except datasets.CorruptDataError:
                yield True


def flips_of_archives(folder: Path, times: int, rng: np.random.Generator) -> Trials:
    content, path = test_datasets.npz(), folder / datasets.CIFAR_SUBSET
    with mock.patch.dict(os.environ, {datasets.FOLDER_VARIABLE: str(folder)}):
        path.write_bytes(content)
        good = datasets.load("cifar10-subset")
        for _ in range(times):
            path.write_bytes(flipped(content, rng))
            try:
                read = datasets.load("cifar10-subset")
            except datasets.CorruptDataError:
                yield True
            else:
                parts = ("x_train", "y_train", "x_test", "y_test")
                yield all(torch.equal(getattr(read, p), getattr(good, p)) for p in parts)


PARTS: dict[str, tuple[Callable[..., Trials], int]] = {
    "kills of a sweep": (kills_of_sweeps, 100),
    "kills of its store": (kills_of_stores, 100),
    "kills of a table": (kills_of_tables, 100),
    "kills of a checkpoint": (kills_of_checkpoints, 100),
    "kills of a download": (kills_of_downloads, 100),
    "kills of an execution": (kills_of_chapters, 100),
    "bit flips in a store": (flips_of_stores, 500),
    "bit flips in its log": (flips_of_logs, 500),
    "bit flips in a record": (functools.partial(flips_of_tables, ".json"), 500),
    "bit flips in a table": (functools.partial(flips_of_tables, ".parquet"), 500),
    "bit flips in a checkpoint": (flips_of_checkpoints, 500),
    "bit flips in an archive": (flips_of_archives, 500),
    "bit flips in a download": (flips_of_downloads, 500),
    "bit flips in a manifest": (flips_of_manifests, 500),
    "faults of a server": (faults_of_servers, 68),
}
"""What is done -> its function, and how often."""


def main() -> int:
    """Do it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="words of a line of the table")
    parser.add_argument("--times", type=int, help="how often, instead of what is planned")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable()  # of each fetch
    warnings.simplefilter("ignore")
    survived_all = True
    print(f"{'what':28} {'tried':>6} {'survived':>9} {'seconds':>8}", flush=True)
    for name, (part, times) in PARTS.items():
        if arguments.parts and not any(word in name for word in arguments.parts):
            continue
        rng, began = np.random.default_rng(arguments.seed), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            found = list(part(Path(folder), arguments.times or times, rng))
        seconds = time.perf_counter() - began
        print(f"{name:28} {len(found):6} {sum(found):9} {seconds:8.1f}", flush=True)
        survived_all &= all(found)
    return not survived_all


if __name__ == "__main__":
    sys.exit(main())
