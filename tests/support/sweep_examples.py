"""Tiny experiments for the tests of sweeps; as a script, one sweep that may be killed.

Nothing but the standard library is imported here, so that a worker process starts quickly.
"""

import math
import os
import sys
import threading
import time
from dataclasses import dataclass

from flatminima import sweep
from flatminima.sweep import pool


@dataclass(frozen=True)
class Config:
    number: int
    log: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Mixed:
    rate: float
    name: str
    widths: tuple[int, ...] = (3, 2)
    bias: bool = True
    device: str = "cpu"


@dataclass
class Thawed:
    number: int


def note(config, word):
    """Append a line to the log; short appends are atomic."""
    if config.log:
        with open(config.log, "a", encoding="utf-8") as log:
            log.write(f"{word} {config.number} {os.getpid()}\n")


def square(config):
    """An experiment whose result has 53 significant bits, so that equality means something."""
    note(config, "start")
    time.sleep(config.seconds)
    note(config, "end")
    return {"root": math.sqrt(config.number), "digits": [int(d) for d in str(config.number)]}


def gated(config):
    """`square`, once there is a file named as the log with ``.open`` behind it."""
    note(config, "start")
    gate, limit = f"{config.log}.open", time.monotonic() + 600
    while not os.path.exists(gate) and time.monotonic() < limit:
        time.sleep(0.01)
    return {"root": math.sqrt(config.number)}


def troubled(config):
    """Number 1 raises, 2 says that it diverged, 3 returns NaN, 4 an infinity in a list."""
    if config.number == 1:
        raise ZeroDivisionError("one is not a number here")
    if config.number == 2:
        raise sweep.Diverged("at step 7", {"loss": 3.0, "peak": math.inf})
    if config.number == 3:
        return {"loss": math.nan, "fine": 1.0}
    if config.number == 4:
        return {"losses": [1.0, math.inf], "fine": 1.0}
    if config.number == 5:
        return {"loss": {1, 2}}
    return {"loss": 0.5, "unmeasured": None}


def deadly(config):
    """Number 1 ends its process, as the system does when memory runs out."""
    if config.number == 1:
        os._exit(9)
    return square(config)


def described(config):
    return {"speed": config.rate, "layers": config.widths}


def threads(config):
    """What a worker is told about threads."""
    return {name: os.environ.get(name) for name in pool.THREAD_VARIABLES}


@dataclass(frozen=True)
class Point:
    rate: float
    seed: int
    device: str = "cpu"


def wobbly(config):
    """A value that depends on the seed, one that does not, and a divergence at large rates."""
    if config.rate > 2:
        raise sweep.Diverged("too fast", {"twice": 2 * config.rate})
    noise = math.sin(1000 * config.seed + config.rate)
    late = config.seed if config.rate > 1 else None
    return {"twice": 2 * config.rate, "noisy": config.rate + 0.1 * noise, "late": late}


def steady(config):
    """The part of `wobbly` that does not depend on the seed."""
    return {"twice": 2 * config.rate}


def impatient(config):
    """Fails at small rates."""
    if config.rate < 1:
        raise RuntimeError("too slow")
    return {"twice": 2 * config.rate}


def fails_once(config):
    """Fails unless the file named by ``log`` exists."""
    if not os.path.exists(config.log):
        raise FileNotFoundError(config.log)
    return {"found": True}


def leaves(config):
    """Number 1 ends the program, 2 is interrupted, 3 says what cannot be printed."""
    if config.number == 1:
        sys.exit(0)
    if config.number == 2:
        raise KeyboardInterrupt
    if config.number == 3:
        raise sweep.Diverged("\ud800", {"root": 1.0})
    return square(config)


def odd(config):
    """Number n returns the n-th value that no table can hold, or not beside the others."""
    lists = [[1.0, [2.0]], [[1], [1, 2]], [1, "one"], {"nested": 1}]
    values = [0.0, 10**4300, "text", "\ud800", *lists, object(), 1j]
    return {1: 0.0, "1": 0.0} if config.number == len(values) else {"x": values[config.number]}


def slow(config):
    """Number 1 hangs where no Python code runs."""
    if config.number == 1:
        threading.Event().wait(600)
    return square(config)


def twice(number):
    """An experiment whose config is a dict."""
    return {"value": 2 * number}


if __name__ == "__main__":
    import sweep_examples  # by this name, and not as __main__, workers import it without running it

    from flatminima.sweep.store import Store

    folder, log, number, seconds, name = sys.argv[1:]
    configs = [sweep_examples.Config(n, log, float(seconds)) for n in range(int(number))]
    claim = Store.claim

    def heard(store, keys):
        """A claim that leaves a line in the log for each run that it is refused."""
        ours, taken = claim(store, keys)
        for _ in taken:
            note(configs[0], "refused")
        return ours, taken

    Store.claim = heard
    sweep.run(getattr(sweep_examples, name), configs, folder, workers=2, progress=False)
