"""A grid of runs over any executor; what has finished is stored and not repeated.

What is run is a function, defined at the top of a module, of a config: a few named values, given
as keywords, or a small frozen dataclass. It returns named values, or raises `Diverged`. Finished
runs are rows of one SQLite file, sealed, and keyed by a hash of the function's name, the config,
and the source of the modules that the result depends on; a worker says which source it ran. So a
sweep that was killed goes on where it was when it is started again, and sweeps started twice at
once share the work: a run in progress is claimed until its owner ends.

Example:
    Ten steps of gradient descent on :math:`x^2/2` from 1:

    >>> import tempfile
    >>> def descend(learning_rate):
    ...     x = (1 - learning_rate) ** 10
    ...     if x > 1:
    ...         raise Diverged("it moved away from the minimum", {"x": x})
    ...     return {"x": x}
    >>> configs = [{"learning_rate": rate} for rate in (0.5, 2.5)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = run(descend, configs, folder, progress=False)
    >>> [(run.config["learning_rate"], run.status, round(run.values["x"], 3)) for run in runs]
    [(0.5, 'done', 0.001), (2.5, 'diverged', 57.665)]
"""

from flatminima._lazy import attach

_NAMES = {
    "grid": "code_version",
    "runs": "Diverged Run device_name fields_of perform",
    "store": "SweepError",
    "work": "run",
}

__getattr__, __dir__, __all__ = attach(
    globals(),
    {name: f"{__name__}.{part}" for part, names in _NAMES.items() for name in names.split()},
)
