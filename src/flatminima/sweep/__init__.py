"""A grid of runs over any executor; what has finished is stored and not repeated.

What is run is a function, defined at the top of a module, of a config: a few named values, given
as keywords, or a small frozen dataclass. It returns named values, or raises `Diverged`. `run` gives
it a grid of configs. Each finished run is one file, written atomically and checked when it is read.
Its name is a hash of the function's name, the config, and the source of the modules that the result
depends on. A sweep that is killed at any moment therefore goes on where it was when it is started
again, and sweeps started twice at once share the work: a run in progress is locked by the operating
system, which drops the lock when its owner ends, however it ends.

Example:
    Ten steps of gradient descent on :math:`x^2/2` from 1, at three learning rates. The function
    stands in a file of its own, so that other processes can import it:

    >>> import sys, tempfile
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from pathlib import Path
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = Path(folder.name, "descent_example.py").write_text('''
    ... from flatminima.sweep import Diverged
    ...
    ... def descend(learning_rate):
    ...     x = (1 - learning_rate) ** 10
    ...     if x > 1:
    ...         raise Diverged("it moved away from the minimum", {"x": x})
    ...     return {"x": x}
    ... ''')
    >>> sys.path.insert(0, folder.name)
    >>> from descent_example import descend
    >>> configs = [{"learning_rate": rate} for rate in (0.5, 1.5, 2.5)]
    >>> with ThreadPoolExecutor(1) as executor:
    ...     runs = run(descend, configs, folder.name, executor=executor, progress=False)
    ...     again = run(descend, configs, folder.name, executor=executor, progress=False)
    >>> [(run.config["learning_rate"], run.status, round(run.values["x"], 3)) for run in runs]
    [(0.5, 'done', 0.001), (1.5, 'done', 0.001), (2.5, 'diverged', 57.665)]
    >>> again == runs  # read from the files of the first sweep
    True
    >>> sys.path.remove(folder.name)
    >>> folder.cleanup()
"""

from flatminima.sweep.grid import code_version
from flatminima.sweep.runs import Diverged, Run, device_name, fields_of, perform
from flatminima.sweep.store import CorruptRunError, SweepError
from flatminima.sweep.work import run

__all__ = [
    "CorruptRunError",
    "Diverged",
    "Run",
    "SweepError",
    "code_version",
    "device_name",
    "fields_of",
    "perform",
    "run",
]
