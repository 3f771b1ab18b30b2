"""Worker processes that can be told from each other: one that hangs or dies takes one run along."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

__all__ = []

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip


class DiedError(RuntimeError):
    """A call ended its process twice."""


class Processes:
    """Spawned processes, each driven by a thread of this one, for calls of module functions.

    A call that takes longer than ``limit`` seconds is killed, and raises TimeoutError; one whose
    process dies is tried once more, and then raises `DiedError`.
    """

    def __init__(self, workers: int, limit: float | None) -> None:
        self.limit = limit
        self.threads = futures.ThreadPoolExecutor(workers)
        self.own = threading.local()
        self.children: set[multiprocessing.Process] = set()
        self.closed = False

    def submit(self, function: Callable, *arguments: object) -> futures.Future:
        return self.threads.submit(self._drive, (function, *arguments))

    def close(self) -> None:
        """End all processes at once, whatever they do."""
        self.closed = True
        for child in list(self.children):
            child.kill()
        self.threads.shutdown(cancel_futures=True)

    def _drive(self, call: tuple) -> Any:
        for _ in range(2):
            child, pipe = self._started()
            try:
                pipe.send(call)
                if not pipe.poll(self.limit):
                    self._end(child)
                    raise TimeoutError(f"it took longer than {self.limit:g} s")
                good, answer = pipe.recv()
            except (EOFError, ConnectionError):
                self._end(child)
                continue
            if not good:
                raise RuntimeError(answer)
            return answer
        raise DiedError(f"its process died twice: killed, or out of memory? ({child.exitcode})")

    def _started(self) -> tuple[multiprocessing.Process, Connection]:
        """This thread's process, a new one if need be."""
        if getattr(self.own, "pair", None) is None:
            if self.closed:
                raise futures.CancelledError
            context = multiprocessing.get_context("spawn")
            pipe, end = context.Pipe()
            child = context.Process(target=_serve, args=(end,))
            child.start()
            self.children.add(child)
            self.own.pair = child, pipe
            end.close()
            try:
                pipe.recv()
            except (EOFError, ConnectionError) as error:
                self._end(child)
                why = "worker processes die as they start: is `if __name__ == '__main__':` missing?"
                raise futures.BrokenExecutor(why) from error
        return self.own.pair

    def _end(self, child: multiprocessing.Process) -> None:
        child.kill()
        child.join()
        self.children.discard(child)
        self.own.pair = None


@contextmanager
def processes(workers: int, limit: float | None) -> Iterator[Processes]:
    """Processes with one thread each, which end with the block, or with this process."""
    # Each reads these once, as it starts, before NumPy or PyTorch is loaded.
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    pool = Processes(workers, limit)
    try:
        yield pool
    finally:
        pool.close()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _serve(pipe: Connection) -> None:
    """Answer calls until the other side is gone."""
    # Ctrl-C reaches all processes of a terminal; the one that started these decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send("ready")
    with suppress(EOFError, ConnectionError):
        while True:
            try:
                function, *arguments = pipe.recv()
                answer = True, function(*arguments)
            except (EOFError, ConnectionError):
                raise
            except Exception as error:
                answer = False, repr(error)
            pipe.send(answer)


def _end_with_parent() -> None:
    """End this process when the one that started it ends, be it by kill -9."""
    multiprocessing.parent_process().join()
    os._exit(1)
