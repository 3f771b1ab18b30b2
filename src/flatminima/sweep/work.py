"""Keeping runs in flight on an executor until each run of the grid is stored."""

import multiprocessing
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

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
    executor: futures.Executor | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    progress: bool | str = True,
) -> list[Run]:
    """Run the function on every config that has no stored run yet; all runs, in the configs' order.

    Args:
        function: a function at the top of a module, so that another process can import it. One
            that is typed into a notebook is run in this process, on one thread; its text, and that
            of what it names in the notebook, decide what is run anew.
        configs: dicts of names and values, which the function takes as keywords, or instances of
            frozen dataclasses, which it takes whole; no two alike. Values are numbers, strings,
            booleans, None, or tuples of these.
        folder: where the runs are stored; made if it is missing. Several experiments may share it.
        depends_on: names of the modules, or packages, whose source decides the result besides the
            function's own: when it changes, runs are made anew. Versions of libraries do not count.
        executor: runs the function; the files are written here, so that a cluster needs no shared
            disk. For a Dask cluster, ``Client(address).get_executor()``. By default spawned
            processes with one thread each, which end when this process does. (A forked process
            would inherit the locks, and is refused.)
        workers: number of runs in flight at once, and of processes; by default one for each core.
        retry_failed: whether to repeat runs that are stored as failed.
        progress: False, or whether to show a progress bar with the time left, or its label.

    Raises:
        ValueError: for an argument that is not as said above.
        SweepError: if a run cannot be written (a full disk, say) or the executor breaks. What had
            finished is stored, and nothing half written.
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
            executor, workers = stack.enter_context(futures.ThreadPoolExecutor(1)), 1
        pool = stack.enter_context(_processes(workers)) if executor is None else executor
        _work(function, grid, store, pool, workers, bar)
    return [store.finished[key] for key in grid]


def _work(
    function: Function, grid: dict[str, object], store: Store, pool: Any, workers: int, bar: tqdm
) -> None:
    """Keep ``workers`` runs in flight until each run of the grid is stored, by us or another."""
    waiting = deque(key for key in grid if key not in store.finished)
    flying: dict[futures.Future, str] = {}
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
            for future in futures.wait(flying, timeout, futures.FIRST_COMPLETED).done:
                key = flying[future]
                try:
                    result = future.result()
                except futures.BrokenExecutor as error:
                    broken = error
                    continue
                except Exception as error:
                    # Dask gives up on a run that several workers died of.
                    killed = getattr(sys.modules.get("distributed"), "KilledWorker", ())
                    if not isinstance(error, killed):
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
            troubles = [r.status for r in store.finished.values() if r.status != "done"]
            bar.set_postfix(Counter(troubles))
    finally:
        for future in flying:
            future.cancel()
        store.release_all()


def _submit(pool: Any, function: Function, config: object, store: Store) -> futures.Future:
    try:
        return pool.submit(perform, function, config)
    except RuntimeError as error:
        raise SweepError(store.state(f"the executor takes no runs ({error!r})")) from error


class _Processes:
    """Spawned worker processes. When one dies, the runs it may have died of are tried alone."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool = self._start(workers)

    @staticmethod
    def _start(workers: int) -> futures.ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return futures.ProcessPoolExecutor(workers, context, _end_with_parent)

    def submit(self, *call: object) -> futures.Future:
        try:
            return self.pool.submit(*call)
        except futures.BrokenExecutor as error:
            # Found broken between two looks: hand on a future that says so.
            future = futures.Future()
            future.set_exception(error)
            return future

    def replace_broken(
        self, function: Function, grid: dict, flying: dict, store: Store, bar: tqdm
    ) -> None:
        """Run each run that was lost in a process of its own; one that ends it again has failed."""
        self.pool.shutdown()
        for future in [f for f in flying if isinstance(f.exception(), futures.BrokenExecutor)]:
            key = flying.pop(future)
            try:
                with self._start(1) as alone:
                    result = alone.submit(perform, function, grid[key]).result()
            except futures.BrokenExecutor:
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
        except futures.BrokenExecutor as error:
            message = "worker processes die as they start: is `if __name__ == '__main__':` missing?"
            raise SweepError(store.state(message)) from error


@contextmanager
def _processes(workers: int) -> Iterator[_Processes]:
    """Processes of our own, with one thread each."""
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


def _cores() -> int:
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
