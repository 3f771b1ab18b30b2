"""Keeping runs in flight on an executor until each run of the grid is stored."""

import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from flatminima._validation import positive_int
from flatminima.sweep.grid import file_of, keyed
from flatminima.sweep.runs import Function, Run, lost, perform
from flatminima.sweep.store import Store, SweepError

__all__ = ["run"]


POLL = 0.1
"""Seconds between two looks at the runs that another sweep has taken."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip


def run(
    function: Function,
    configs: Iterable[object],
    folder: str | os.PathLike,
    *,
    depends_on: Sequence[str] = (),
    executor: Executor | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    progress: bool | str = True,
) -> list[Run]:
    """Run the function on every config that has no stored run yet, and return all runs.

    Args:
        function: a function at the top of a module, so that another process can import it. One
            that is typed into a notebook is run in this process, on one thread; its text, and that
            of the notebook's functions and classes that it names, decide what is run anew.
        configs: dicts of names and values, which the function takes as keywords, or instances of
            frozen dataclasses, which it takes whole; no two alike. Values are numbers, strings,
            booleans, None, or tuples of these.
        folder: where the runs are stored; made if it is missing. Several experiments may share it.
        depends_on: names of the modules whose source decides the result, besides the function's
            own; a package stands for all its modules. When one changes, its runs are made anew.
            Versions of libraries are recorded but make nothing anew.
        executor: runs the function; the files are written here, so that a cluster needs no
            shared disk. For a Dask cluster, ``Client(address).get_executor()``. None: processes of
            its own, spawned, with one thread each, which end when this process does. (For a
            function of a notebook, one thread of this process.) A pool of
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
    grid = keyed(function, configs, depends_on)
    store = Store(Path(folder), grid, retry_failed)
    label = progress if isinstance(progress, str) else function.__name__
    bar = tqdm(total=len(grid), initial=len(store.finished), desc=label, disable=not progress)
    with ExitStack() as stack:
        stack.enter_context(bar)
        if executor is None and file_of(function) is None:
            executor, workers = stack.enter_context(ThreadPoolExecutor(1)), 1
        pool = stack.enter_context(_executor(executor, workers))
        _work(function, grid, store, pool, workers, bar)
    return [store.finished[key] for key in grid]


def _work(
    function: Function,
    grid: dict[str, object],
    store: Store,
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
                    flying[_submit(pool, function, grid[key], store)] = key
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
                        message = f"the executor could not run the function ({error!r})"
                        raise SweepError(store.state(message)) from error
                    result = lost(grid[key], repr(error))
                del flying[future]
                store.keep(key, result)
                bar.update()
            if broken is not None:
                if not isinstance(pool, _Processes):
                    raise SweepError(store.state(f"the executor broke ({broken!r})")) from broken
                pool.replace_broken(function, grid, flying, store, bar)
            bar.set_postfix(store.troubles())
    finally:
        for future in flying:
            future.cancel()
        store.release_all()


def _submit(
    pool: "Executor | _Processes", function: Function, config: object, store: Store
) -> Future:
    try:
        return pool.submit(perform, function, config)
    except BrokenExecutor as error:
        if isinstance(pool, _Processes):
            # Found broken between two looks: hand on a future that says so.
            future: Future = Future()
            future.set_exception(error)
            return future
        raise SweepError(store.state(f"the executor broke ({error!r})")) from error
    except RuntimeError as error:
        raise SweepError(store.state(f"the executor takes no runs ({error!r})")) from error


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
        function: Function,
        grid: Mapping[str, object],
        flying: dict[Future, str],
        store: Store,
        bar: tqdm,
    ) -> None:
        """Run each run that was lost in a process of its own; one that ends it again has failed."""
        self.pool.shutdown()
        for future in [f for f in flying if isinstance(f.exception(), BrokenExecutor)]:
            key = flying.pop(future)
            try:
                with self._start(1) as alone:
                    result = alone.submit(perform, function, grid[key]).result()
            except BrokenExecutor:
                self._check_start(store)
                result = lost(grid[key], "its process died twice: killed, or out of memory?")
            store.keep(key, result)
            bar.update()
        self.pool = self._start(self.workers)

    def _check_start(self, store: Store) -> None:
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


def _lost_by_dask(error: Exception) -> bool:
    """Whether Dask has given up on this very run, since several workers died of it."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(error, distributed.KilledWorker)


def _cores() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
