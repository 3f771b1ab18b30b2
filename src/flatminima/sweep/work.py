"""Keeping runs in flight on an executor until each run of the grid is stored."""

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent import futures
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from flatminima._progress import bar
from flatminima._validation import (
    a_bool,
    a_list,
    a_path,
    instance_of,
    positive_float,
    positive_int,
    shown,
)
from flatminima.sweep.grid import code_of, edited, files_of, keyed
from flatminima.sweep.pool import DiedError, processes
from flatminima.sweep.runs import Function, Run, alike, kind, lost, perform
from flatminima.sweep.store import Store, SweepError

__all__ = ["run"]

POLL = 0.1
"""Seconds between two looks at the runs that another sweep has taken."""
BEAT = 5
"""Seconds between two signs of life."""


def run(
    function: Function,
    configs: Iterable[object],
    folder: str | os.PathLike,
    *,
    depends_on: Sequence[str] = (),
    executor: futures.Executor | None = None,
    workers: int | None = None,
    time_limit: float | None = None,
    retry_failed: bool = False,
    progress: bool | str = True,
) -> list[Run]:
    """Run the function on every config that has no stored run yet; all runs, in the configs' order.

    Args:
        function: a function at the top of a module, so that another process can import it. One
            that is typed into a notebook is run in this process, on one thread; its text, and that
            of what it names in the notebook, decide what is run anew.
            Its values have names other than the fields', and than status, error and seconds.
        configs: dicts of names and values, which the function takes as keywords, or instances of
            frozen dataclasses, which it takes whole; no two alike. Values are numbers, strings,
            booleans, None, or tuples of these.
        folder: where the runs are stored, in one file; made if it is missing. Several experiments,
            and several sweeps at once, may share it.
        depends_on: names of the modules, or packages, whose source decides the result besides the
            function's own: when it changes, runs are made anew. Versions of libraries do not count.
        executor: runs the function; runs are stored here, so that a cluster needs no shared
            disk. For a Dask cluster, ``Client(address).get_executor()``. By default spawned
            processes with one thread each, which end when this process does. (A forked process
            would inherit the locks, and is refused.)
        workers: number of runs in flight at once, and of processes; by default one for each core.
        time_limit: seconds that a run may take; one that takes longer has failed. Processes of our
            own are killed; what an executor of yours does with its call is up to it.
        retry_failed: whether to repeat runs that are stored as failed.
        progress: False, or whether to show a progress bar with the time left, or its label.

    Raises:
        ValueError, TypeError: for an argument that is not as said above.
        SweepError: if a run cannot be stored (a full disk, say), the executor breaks, or the code
            that a worker runs is not the code that is on the disk here. What had finished is
            stored, and nothing half written.
    """
    configs, folder = a_list("configs", configs), a_path("folder", folder)
    depends_on = a_list("depends_on", depends_on)
    retry_failed = a_bool("retry_failed", retry_failed)
    instance_of("progress", progress, bool, str)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor must have a method submit, got {shown(executor)}")
    workers = _cores() if workers is None else positive_int("workers", workers)
    limit = None if time_limit is None else positive_float("time_limit", time_limit)
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "executor must spawn its processes, not fork them: pass "
            "mp_context=multiprocessing.get_context('spawn') to ProcessPoolExecutor"
        )
    code = code_of(function, depends_on)
    grid = keyed(function, configs, code)
    store = Store(folder, grid, retry_failed)
    label = progress if isinstance(progress, str) else function.__name__
    options = {"total": len(grid), "initial": len(store.finished), "desc": label}
    with ExitStack() as stack:
        stack.callback(store.close)
        display = stack.enter_context(bar(**options, disable=not progress))
        if executor is None and not files_of(function):
            executor, workers = futures.ThreadPoolExecutor(1), 1
            # What it has begun is not waited for.
            stack.callback(executor.shutdown, wait=False, cancel_futures=True)
        if executor is None:
            executor, limit = stack.enter_context(processes(workers, limit)), None
        _Work(function, depends_on, code, store, executor, limit, display).do(workers)
        store.confirm()
    return [store.finished[key] for key in grid]


@dataclass
class _Work:
    """The runs in flight, each with its key and the time at which it set out."""

    function: Function
    depends_on: Sequence[str]
    code: str
    store: Store
    executor: Any
    limit: float | None
    display: Any
    flying: dict[futures.Future, tuple[str, float]] = field(default_factory=dict)
    troubles: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for run in self.store.finished.values():
            self._of_one_kind(run)

    def do(self, workers: int) -> None:
        """Keep that many runs in flight until each run of the grid is stored, by us or another."""
        waiting = deque(key for key in self.store.grid if key not in self.store.finished)
        try:
            while waiting or self.flying:
                room = min(workers - len(self.flying), len(waiting))
                ours, taken = self.store.claim([waiting.popleft() for _ in range(room)])
                waiting.extend(taken)
                self.display.update(room - len(ours) - len(taken))
                for key in ours:
                    self._submit(key)
                if self.flying:
                    pause = POLL if taken else min(BEAT, self.limit or BEAT)
                    self._land(futures.wait(self.flying, pause, futures.FIRST_COMPLETED).done)
                else:
                    # Whatever is left has been taken by another sweep.
                    time.sleep(POLL if waiting else 0)
        finally:
            # Whatever stopped the sweep: what has come back is kept.
            for future in self.flying:
                future.cancel()
            done = [f for f in self.flying if f.done() and not f.cancelled() and not f.exception()]
            if done and sys.exc_info()[0] is not None:
                with suppress(SweepError):
                    self._land(done)

    def _submit(self, key: str) -> None:
        call = _told, self.function, self.store.grid[key], self.depends_on
        try:
            self.flying[self.executor.submit(*call)] = key, time.monotonic()
        except RuntimeError as error:
            raise SweepError(self.store.state(f"the executor takes no runs ({error!r})")) from error

    def _land(self, done: Iterable[futures.Future]) -> None:
        """Store what has come back, and only then say what went wrong."""
        results, trouble = {}, None
        for future in done:
            key, _ = self.flying[future]
            try:
                results[key], code, edited = future.result()
            except (DiedError, TimeoutError, *_killed()) as error:
                results[key] = lost(self.store.grid[key], str(error) or repr(error))
            except futures.BrokenExecutor as error:
                trouble = f"the executor broke ({error!r})", error
            except Exception as error:
                trouble = f"the executor could not run the function ({error!r})", error
            else:
                if code != self.code or edited:
                    trouble = f"{_differs(edited)}; start it again with the code as it is now", None
                    del results[key]
        now = time.monotonic()
        for future, (key, since) in self.flying.items():
            if self.limit is not None and now - since > self.limit and key not in results:
                future.cancel()
                results[key] = lost(self.store.grid[key], f"it took longer than {self.limit:g} s")
        results = {key: self._of_one_kind(run) for key, run in results.items()}
        if results:
            self.store.keep(results)
            self.flying = {f: at for f, at in self.flying.items() if at[0] not in results}
            self.display.update(len(results))
        self.troubles.update(r.status for r in results.values() if r.status != "done")
        oldest = max((now - since for _, since in self.flying.values()), default=0)
        signs = {"running": len(self.flying), "longest": f"{oldest:.0f} s"}
        self.display.set_postfix({**self.troubles, **(signs if oldest > BEAT else {})})
        if trouble is not None:
            raise SweepError(self.store.state(trouble[0])) from trouble[1]

    def _of_one_kind(self, run: Run) -> Run:
        """The run, failed if one of its values is of another kind than in the runs before it."""
        for name, value in run.values.items():
            this, others = kind(value), self.kinds.get(name, "")
            if not alike([this, others]):
                error = f"the value {name} is {this} here, and {others} in other runs"
                return replace(run, status="failed", values={}, error=error)
            self.kinds[name] = max(this, others, key=len)
        return run


def _told(
    function: Function, config: object, depends_on: Sequence[str]
) -> tuple[Run, str, list[str]]:
    """A run, and the code that this process ran: its hash, and files that it may not have run."""
    try:
        run = perform(function, config)
    except BaseException as error:
        # A KeyboardInterrupt that the function raised, say: it must not end the sweep unsaid.
        run = lost(config, f"it raised {error!r}")
    return run, code_of(function, depends_on), edited(function, depends_on)


def _killed() -> tuple[type[Exception], ...]:
    """What Dask says when it gives up on a run that several workers died of."""
    distributed = sys.modules.get("distributed")
    return (distributed.KilledWorker,) if distributed else ()


def _differs(edited: Sequence[str]) -> str:
    if edited:
        files = ", ".join(edited)
        return f"{files} was edited after a worker had begun to run it, or is dated in the future"
    return "a worker has other code than there is on the disk here"


def _cores() -> int:
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
