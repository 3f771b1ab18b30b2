"""A grid of runs of one experiment over any executor; what has finished is stored and not repeated.

An experiment is a function, defined at the top of a module, of one small frozen dataclass, its
config. It returns named values, or raises `Diverged`. `run` gives it a grid of configs::

    @dataclass(frozen=True)
    class Config:
        learning_rate: float
        seed: int

    def experiment(config: Config) -> dict[str, float]: ...

    runs = sweep.run(experiment, [Config(0.1, s) for s in range(5)], "_runs/example")

Each finished run is one file, written atomically and checked when it is read. Its name is a hash of
the function's name, the config, and the source of the modules that the experiment depends on. A
sweep that is killed at any moment therefore goes on where it was when it is started again, and
sweeps started twice at once share the work: a run in progress is locked by the operating system,
which drops the lock when its owner ends, however it ends.
"""

import dataclasses
import hashlib
import importlib.util
import inspect
import json
import math
import multiprocessing
import os
import platform
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from flatminima._files import write_atomically
from flatminima._validation import positive_int

__all__ = [
    "POLL",
    "STATUSES",
    "THREAD_VARIABLES",
    "CorruptRunError",
    "Diverged",
    "Run",
    "SweepError",
    "code_version",
    "fields_of",
    "perform",
    "read",
    "run",
]

STATUSES = ("done", "diverged", "failed")
POLL = 0.1
"""Seconds between two looks at the runs that another sweep has taken."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip

Experiment = Callable[[Any], Mapping[str, object]]


class Diverged(Exception):
    """Raised by an experiment to say that its run diverged.

    Args:
        message: what happened, and when.
        values: what was measured before it did; stored with the run.
    """

    def __init__(self, message: str, values: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.values = dict(values or {})


class SweepError(RuntimeError):
    """The sweep itself cannot go on. What had finished is stored; start it again to go on."""


class CorruptRunError(ValueError):
    """The file of a run is not what its checksum says."""


@dataclass(frozen=True)
class Run:
    """One finished run, as it is stored.

    Attributes:
        config: the fields of the config.
        status: ``"done"``, ``"diverged"`` (the experiment raised `Diverged`, or a value it returned
            is NaN or infinite) or ``"failed"`` (any other exception, or its process died).
        values: what the experiment returned: numbers, strings, lists of them; None for a value that
            was not measured, or that was not finite.
        error: why it diverged or failed, else None.
        seconds: wall time of the run.
        started: the time of its start, UTC, ISO 8601.
        device: the processor or the GPU it ran on.
        versions: name -> version of Python and the libraries it used.
    """

    config: dict[str, Any]
    status: str
    values: dict[str, Any]
    error: str | None
    seconds: float
    started: str
    device: str
    versions: dict[str, str]


def run(
    experiment: Experiment,
    configs: Iterable[object],
    folder: str | os.PathLike,
    *,
    depends_on: Sequence[str] = (),
    executor: Executor | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    progress: bool | str = True,
) -> list[Run]:
    """Run the experiment on every config that has no stored run yet, and return all runs.

    Args:
        experiment: a function at the top of a module, so that another process can import it.
        configs: instances of frozen dataclasses, no two alike, whose fields are numbers, strings,
            booleans, None, or tuples of these.
        folder: where the runs are stored; made if it is missing. Several experiments may share it.
        depends_on: names of the modules whose source decides the result, besides the experiment's
            own; a package stands for all its modules. When one changes, its runs are made anew.
            Versions of libraries are recorded but make nothing anew.
        executor: runs the experiment; the files are written here, so that a cluster needs no
            shared disk. For a Dask cluster, ``Client(address).get_executor()``. None: processes of
            its own, spawned, with one thread each, which end when this process does. A pool of
            other processes must be spawned too: a forked one would inherit the locks.
        workers: number of runs in flight at once, and of processes; by default one for each core.
        retry_failed: whether to repeat runs that are stored as failed.
        progress: False, or whether to show a progress bar with the time left, or its label.

    Returns:
        One `Run` for each config, in the order of the configs.

    Raises:
        ValueError: for an argument that is not as said above.
        SweepError: if a run cannot be written (a full disk, say) or the executor breaks. Nothing is
            half written, and everything that had finished is stored.
    """
    workers = _cores() if workers is None else positive_int("workers", workers)
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "executor must spawn its processes, not fork them: pass "
            "mp_context=multiprocessing.get_context('spawn') to ProcessPoolExecutor"
        )
    grid = _keyed(experiment, configs, depends_on)
    store = _Store(Path(folder), grid, retry_failed)
    label = progress if isinstance(progress, str) else experiment.__name__
    bar = tqdm(total=len(grid), initial=len(store.finished), desc=label, disable=not progress)
    with bar, _executor(executor, workers) as pool:
        _work(experiment, grid, store, pool, workers, bar)
    return [store.finished[key] for key in grid]


def code_version(modules: Iterable[str]) -> str:
    """Hash of the source of the named modules; a package stands for all modules in it.

    Raises:
        ValueError: for a module that does not exist or has no source.
    """
    digest = hashlib.sha256()
    for name in sorted(set(modules)):
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not str(spec.origin).endswith(".py"):
            raise ValueError(f"depends_on must name modules with Python source, got {name!r}")
        for path in _sources(spec.origin, spec.submodule_search_locations):
            digest.update(f"{name} {path.name}\n".encode() + _source(path))
    return digest.hexdigest()


def _work(
    experiment: Experiment,
    grid: dict[str, object],
    store: "_Store",
    pool: "Executor | _Processes",
    workers: int,
    bar: tqdm,
) -> None:
    """Keep ``workers`` runs in flight until each run of the grid is stored, by us or another."""
    waiting = deque(key for key in grid if key not in store.finished)
    flying: dict[Future, str] = {}
    try:
        while waiting or flying:
            for _ in range(len(waiting)):
                if len(flying) >= workers:
                    break
                key = waiting.popleft()
                if not store.claim(key):
                    waiting.append(key)
                elif key not in store.finished:
                    flying[_submit(pool, experiment, grid[key], store)] = key
                else:
                    bar.update()
            if not flying:
                # Whatever is left has been taken by another sweep.
                time.sleep(POLL if waiting else 0)
                continue
            timeout = POLL if waiting and len(flying) < workers else None
            broken = None
            for future in wait(flying, timeout=timeout, return_when=FIRST_COMPLETED).done:
                key = flying[future]
                try:
                    result = future.result()
                except BrokenExecutor as error:
                    broken = error
                    continue
                except Exception as error:
                    if not _lost_by_dask(error):
                        message = f"the executor could not run the experiment ({error!r})"
                        raise SweepError(store.state(message)) from error
                    result = _lost(grid[key], repr(error))
                del flying[future]
                store.keep(key, result)
                bar.update()
            if broken is not None:
                if not isinstance(pool, _Processes):
                    raise SweepError(store.state(f"the executor broke ({broken!r})")) from broken
                pool.replace_broken(experiment, grid, flying, store, bar)
            bar.set_postfix(store.troubles())
    finally:
        for future in flying:
            future.cancel()
        store.release_all()


def _submit(
    pool: "Executor | _Processes", experiment: Experiment, config: object, store: "_Store"
) -> Future:
    try:
        return pool.submit(perform, experiment, config)
    except BrokenExecutor as error:
        if isinstance(pool, _Processes):
            # Found broken between two looks: hand on a future that says so.
            future: Future = Future()
            future.set_exception(error)
            return future
        raise SweepError(store.state(f"the executor broke ({error!r})")) from error
    except RuntimeError as error:
        raise SweepError(store.state(f"the executor takes no runs ({error!r})")) from error


class _Store:
    """The files of a sweep's runs, and the locks on those that this process has claimed."""

    def __init__(self, folder: Path, grid: Mapping[str, object], retry_failed: bool) -> None:
        self.folder, self.total = folder, len(grid)
        self.finished: dict[str, Run] = {}
        self.stale: dict[str, Run] = {}
        self.locks: dict[str, FileLock] = {}
        try:
            (folder / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SweepError(f"the folder {folder} cannot be made ({error})") from error
        for key in grid:
            # A corrupt file is dealt with when its run is claimed.
            with suppress(CorruptRunError):
                stored = read(self.path(key))
                if stored is not None and retry_failed and stored.status == "failed":
                    self.stale[key] = stored
                elif stored is not None:
                    self.finished[key] = stored

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def claim(self, key: str) -> bool:
        """Lock a run; False if another sweep has it. It may turn out to be finished meanwhile."""
        lock = FileLock(self.folder / "locks" / key)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            raise SweepError(self.state(f"{lock.lock_file} cannot be locked ({error})")) from error
        self.locks[key] = lock
        for leftover in self.folder.glob(f"{key}.json.*.tmp"):
            leftover.unlink()
        try:
            stored = read(self.path(key))
        except CorruptRunError as error:
            aside = self.path(key).with_suffix(".corrupt")
            self.path(key).replace(aside)
            warnings.warn(f"{error} It is now {aside.name}; the run is repeated.", stacklevel=4)
            stored = None
        if stored is not None and stored != self.stale.get(key):
            self.finished[key] = stored
            self.locks.pop(key).release()
        return True

    def keep(self, key: str, result: Run) -> None:
        """Write the file of a claimed run, and give up the claim."""
        try:
            write_atomically(self.path(key), _encode(result))
        except OSError as error:
            message = f"{self.path(key)} cannot be written ({error})"
            raise SweepError(self.state(message)) from error
        self.finished[key] = result
        self.locks.pop(key).release()

    def release_all(self) -> None:
        for lock in self.locks.values():
            lock.release()
        self.locks.clear()

    def state(self, message: str) -> str:
        return (
            f"{message}. {len(self.finished)} of {self.total} runs are stored in {self.folder}; "
            "once the cause is mended, start the sweep again to make the others."
        )

    def troubles(self) -> dict[str, int]:
        """How many runs diverged and failed so far, for the progress bar."""
        found = [run.status for run in self.finished.values()]
        return {status: found.count(status) for status in STATUSES[1:] if status in found}


def read(path: Path) -> Run | None:
    """Return the run stored in a file, or None if there is no such file.

    Raises:
        CorruptRunError: if the file is truncated or altered.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        stored = json.loads(content)
        body = stored["run"]
        if stored["sha256"] == _checksum(body):
            return Run(**body)
    except (ValueError, KeyError, TypeError):
        pass
    raise CorruptRunError(f"{path} is truncated or altered.")


def _encode(result: Run) -> bytes:
    body = dataclasses.asdict(result)
    stored = {"sha256": _checksum(body), "run": body}
    return json.dumps(stored, indent=1, allow_nan=False).encode() + b"\n"


def _checksum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


class _Processes:
    """Spawned worker processes. When one dies, the runs it may have died of are tried alone."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool = self._start(workers)

    @staticmethod
    def _start(workers: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)

    def submit(self, *call: object) -> Future:
        return self.pool.submit(*call)

    def replace_broken(
        self,
        experiment: Experiment,
        grid: Mapping[str, object],
        flying: dict[Future, str],
        store: _Store,
        bar: tqdm,
    ) -> None:
        """Run each run that was lost in a process of its own; one that ends it again has failed."""
        self.pool.shutdown()
        for future in [f for f in flying if isinstance(f.exception(), BrokenExecutor)]:
            key = flying.pop(future)
            try:
                with self._start(1) as alone:
                    result = alone.submit(perform, experiment, grid[key]).result()
            except BrokenExecutor:
                self._check_start(store)
                result = _lost(grid[key], "its process died twice: killed, or out of memory?")
            store.keep(key, result)
            bar.update()
        self.pool = self._start(self.workers)

    def _check_start(self, store: _Store) -> None:
        """Raise SweepError if the fault is not the run's, but no process starts at all."""
        try:
            with self._start(1) as alone:
                alone.submit(os.getpid).result()
        except BrokenExecutor as error:
            message = "worker processes die as they start (a script that starts a sweep needs the "
            message += "guard `if __name__ == '__main__':`)"
            raise SweepError(store.state(message)) from error


@contextmanager
def _executor(executor: Executor | None, workers: int) -> Iterator[Executor | _Processes]:
    """The given executor, which stays open, or processes of our own with one thread each."""
    if executor is not None:
        yield executor
        return
    # Processes start as they are needed and read these once, before NumPy or PyTorch is loaded.
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    processes = _Processes(workers)
    try:
        yield processes
    finally:
        processes.pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _end_with_parent() -> None:
    """Let this worker end when the process that started it ends, be it by kill -9."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def perform(experiment: Experiment, config: object) -> Run:
    """Run the experiment once, in whatever process this is, and say how it went."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = time.perf_counter()
    status, values, error = "done", {}, None
    try:
        values = _plain_values(experiment(config))
    except Diverged as diverged:
        status, error = "diverged", str(diverged)
        try:
            values = _plain_values(diverged.values)
        except ValueError:
            status, error = "failed", traceback.format_exc()
    except Exception:
        status, error = "failed", traceback.format_exc()
    lost = [name for name, value in values.items() if not _is_finite(value)]
    if lost and status == "done":
        status, error = "diverged", f"not finite: {', '.join(lost)}"
    return Run(
        config=fields_of(config),
        status=status,
        values={name: _without_nonfinite(value) for name, value in values.items()},
        error=error,
        seconds=time.perf_counter() - clock,
        started=started,
        device=_device_name(getattr(config, "device", "cpu")),
        versions=_versions(),
    )


def _lost(config: object, error: str) -> Run:
    """The record of a run whose process could not say what happened."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return Run(fields_of(config), "failed", {}, error, 0.0, started, "unknown", {})


def _lost_by_dask(error: Exception) -> bool:
    """Whether Dask has given up on this very run, since several workers died of it."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(error, distributed.KilledWorker)


def _keyed(
    experiment: Experiment, configs: Iterable[object], depends_on: Sequence[str]
) -> dict[str, object]:
    """Name of the file -> config, in the order of the configs."""
    name = getattr(experiment, "__qualname__", "")
    if not inspect.isfunction(experiment) or not name.isidentifier():
        raise ValueError(
            "experiment must be a function defined at the top of a module, so that another "
            f"process can import it; got {experiment!r}"
        )
    if isinstance(depends_on, str):
        raise ValueError(f"depends_on must be a sequence of names, got the string {depends_on!r}")
    # The source of the experiment is found through the file: its module may be __main__.
    own = hashlib.sha256(_source(Path(inspect.getsourcefile(experiment)))).hexdigest()
    code = [own, code_version(depends_on)]
    grid: dict[str, object] = {}
    for config in configs:
        description = json.dumps([name, type(config).__qualname__, fields_of(config), code])
        key = hashlib.sha256(description.encode()).hexdigest()[:32]
        if key in grid:
            raise ValueError(f"configs must all differ, got this one twice: {config!r}")
        grid[key] = config
    return grid


def fields_of(config: object) -> dict[str, Any]:
    """The fields of a config as plain values; ValueError if it is not what `run` says."""
    frozen = dataclasses.is_dataclass(config) and not isinstance(config, type)
    if not frozen or not config.__dataclass_params__.frozen:
        raise ValueError(f"each config must be an instance of a frozen dataclass, got {config!r}")
    fields = {}
    for field in dataclasses.fields(config):
        fields[field.name] = _plain(f"the field {field.name}", getattr(config, field.name))
        if not _is_finite(fields[field.name]):
            raise ValueError(f"the field {field.name} must be finite, got {config!r}")
    return fields


def _plain_values(values: object) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"an experiment must return a mapping of names to values, got {values!r}")
    return {str(name): _plain(f"the value {name}", value) for name, value in values.items()}


def _plain(name: str, value: object) -> Any:
    """Turn arrays and tensors into numbers and lists of numbers; ValueError for anything else."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, entry) for entry in value]
    raise ValueError(
        f"{name} must be a number, a string, a boolean, None, or an array or tuple of these; "
        f"got {value!r}"
    )


def _is_finite(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _without_nonfinite(value: object) -> object:
    if isinstance(value, list):
        return [_without_nonfinite(entry) for entry in value]
    return value if _is_finite(value) else None


def _sources(origin: str, package: Iterable[str] | None) -> list[Path]:
    folders = [Path(folder) for folder in package or ()]
    return sorted(p for f in folders for p in f.rglob("*.py")) if folders else [Path(origin)]


def _source(path: Path) -> bytes:
    # A checkout may end its lines in either way.
    return path.read_bytes().replace(b"\r\n", b"\n")


def _device_name(device: str) -> str:
    """What ``"cuda:0"`` or ``"cpu"`` is called by its maker."""
    if str(device).startswith("cuda"):
        torch = sys.modules.get("torch")
        available = torch is not None and torch.cuda.is_available()
        return torch.cuda.get_device_name(device) if available else "no GPU"
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    names = ("flatminima", "numpy", "scipy", "torch")
    loaded = {name: sys.modules[name] for name in names if name in sys.modules}
    found = {name: str(getattr(module, "__version__", "")) for name, module in loaded.items()}
    return {"python": platform.python_version(), **found}


def _cores() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
