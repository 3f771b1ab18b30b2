"""What one run does and leaves: a function of a config, performed once, and its record."""

import dataclasses
import math
import platform
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flatminima._validation import a_function, instance_of, shown

__all__ = ["Diverged", "Run", "device_name", "fields_of", "perform"]

Function = Callable[[Any], Mapping[str, object]]
"""What a sweep runs: config -> named values."""
OWN = ("status", "error", "seconds")
"""What stands beside the fields and the values of a run in a table, each under its name."""


class Diverged(Exception):
    """Raised by the function of a sweep to say that its run diverged.

    ``message`` says what happened, and when; ``values``, measured before it did, are stored.
    """

    def __init__(self, message: str, values: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.values = dict(values or {})


@dataclass(frozen=True)
class Run:
    """One finished run, as it is stored.

    Attributes:
        config: the fields of the config.
        status: ``"done"``, ``"diverged"`` (the function raised `Diverged`, or a value it returned
            is NaN or infinite) or ``"failed"`` (any other exception, `sys.exit` among them; its
            process died; or it took longer than it may).
        values: what the function returned; None for a value not measured, or not finite.
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


def perform(function: Function, config: object) -> Run:
    """Run the function once, in whatever process this is, and say how it went.

    It raises nothing of the function's own: TypeError and ValueError are about what it is given.

    Example:
        >>> runs = [perform(lambda steps: {"mean": 1 / steps}, {"steps": n}) for n in (4, 0)]
        >>> [(run.status, run.values) for run in runs]
        [('done', {'mean': 0.25}), ('failed', {})]
    """
    fields = fields_of(config)
    a_function("function", function)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    status, values, error = "done", {}, None
    try:
        try:
            returned = function(**config) if isinstance(config, Mapping) else function(config)
        except Diverged as diverged:
            status, error, returned = "diverged", str(diverged), diverged.values
        values = _plain_values(returned, fields)
    except (Exception, SystemExit):
        status, error = "failed", traceback.format_exc()
    finite = _finite(values)
    lost = [name for name in values if finite[name] != values[name]]
    if lost and status == "done":
        status, error = "diverged", f"not finite: {', '.join(lost)}"
    return Run(
        config=fields,
        status=status,
        values=finite,
        error=error and error.encode(errors="backslashreplace").decode(),
        seconds=time.perf_counter() - clock,
        started=started,
        device=device_name(str(fields.get("device", "cpu"))),
        versions=_versions(),
    )


def lost(config: object, error: str) -> Run:
    """The record of a run whose process could not say what happened."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return Run(fields_of(config), "failed", {}, error, 0.0, started, "unknown", {})


def fields_of(config: object) -> dict[str, Any]:
    """The fields of a config as plain values; ValueError if it is not what `run` says.

    Example:
        >>> fields_of({"widths": (8, 4)})
        {'widths': [8, 4]}
    """
    given = config if isinstance(config, Mapping) else None
    parameters = getattr(config, "__dataclass_params__", None)
    if parameters and parameters.frozen and not isinstance(config, type):
        given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if given is None or not all(isinstance(name, str) for name in given):
        raise ValueError(
            "config must be a dict of names and values, or an instance of a frozen dataclass; got "
            f"{shown(config)}"
        )
    fields = _plain_items("field", given)
    if _finite(fields) != fields:
        raise ValueError(f"all fields must be finite, got {shown(config)}")
    return fields


def kind(value: object) -> str:
    """What a stored value is: two can stand in one column if one kind begins with the other.

    That of no value is empty, and that of a list without entries ends with their place.
    """
    if isinstance(value, list):
        return "lists of " + max(map(kind, value), key=len, default="")
    names = ((type(None), ""), (bool, "truth values"), (str, "text"), (object, "numbers"))
    return next(name for base, name in names if isinstance(value, base))


def alike(kinds: Iterable[str]) -> bool:
    """Whether values of these kinds can stand in one column."""
    longest = max(kinds := list(kinds), key=len, default="")
    return all(longest.startswith(kind) for kind in kinds)


def _plain_values(values: object, fields: Iterable[str]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(
            f"the function must return a mapping of names to values, got {shown(values)}"
        )
    if not all(isinstance(name, str) for name in values):
        raise ValueError(f"the values must be named by strings, got the names {list(values)!r}")
    return _plain_items("value", values, {*fields, *OWN})


def _plain_items(
    what: str, items: Mapping[str, object], taken: Collection[str] = ()
) -> dict[str, Any]:
    for name in items:
        _plain(f"the name of the {what} {name!r}", name)
        if name in taken:
            raise ValueError(
                f"the {what} {name} must have a name other than {', '.join(sorted(taken))}"
            )
    return {str(name): _plain(f"the {what} {name}", value) for name, value in items.items()}


def _plain(name: str, value: object) -> Any:
    """Turn arrays and tensors into numbers and lists of numbers; ValueError for anything else."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        entries = [_plain(name, entry) for entry in value]
        if len({_shape(entry) for entry in entries}) > 1 or not alike(map(kind, entries)):
            raise ValueError(f"{name} must have entries of one shape and kind, got {shown(value)}")
        return entries
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must be a number of 64 bits, got one of {value.bit_length()}")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} must be text that can be written as UTF-8, got {value!r}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"{name} must be a number, a string, a boolean, None, or an array or tuple of these; "
        f"got {shown(value)}"
    )


def _shape(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    return len(value), *(_shape(value[0]) if value else ())


def _finite(value: Any) -> Any:
    """The same with None for what is NaN or infinite."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def device_name(device: str) -> str:
    """What ``"cuda:0"`` or ``"cpu"`` is called by its maker.

    Example:
        >>> isinstance(device_name("cpu"), str)
        True
    """
    if instance_of("device", device, str).startswith("cuda"):
        torch = sys.modules.get("torch")
        try:
            return torch.cuda.get_device_name(device)
        except Exception:  # without PyTorch, without a GPU, or without one of that number
            return "no GPU"
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
