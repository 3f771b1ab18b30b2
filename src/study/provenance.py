"""The record beside each stored table: what made it, with which versions, where, and when."""

import hashlib
import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flatminima import sweep
from study import ROOT

__all__ = [
    "REQUIRED",
    "command",
    "describe",
    "distinct",
    "duration",
    "gpu_available",
    "record",
    "require_devices",
    "revision",
    "sealed",
]

REQUIRED = (
    "name", "preset", "runs", "grid", "statuses", "devices", "versions", "date", "sha256", "seal"
)  # fmt: skip
"""What a record must hold to be one; `record` lists all of it."""


def record(
    runs: Sequence[sweep.Run], *, name: str, summary: str, preset: str, code: str
) -> dict[str, Any]:
    """The record of a finished sweep.

    Args:
        runs: all its runs, one at least.
        name, summary, preset: of the experiment, and of its grid.
        code: hash of the modules that the result depends on.

    Returns:
        ``name``, ``summary``, ``preset``; ``runs`` and ``statuses``, their numbers; ``grid`` (field
        of the config -> its distinct values) and ``seeds``; ``devices``, ``versions``; ``seconds``,
        summed over the runs; ``started``, ``date`` (UTC) of the first run and of the record;
        ``revision`` of the repository, or None; ``code``.
    """
    grid = {field: distinct(run.config[field] for run in runs) for field in runs[0].config}
    made_it = [run for run in runs if run.versions]
    return {
        "name": name,
        "summary": summary,
        "preset": preset,
        "runs": len(runs),
        "statuses": dict(Counter(run.status for run in runs)),
        "grid": grid,
        "seeds": grid.get("seed", []),
        "devices": sorted({run.device for run in made_it}),
        "versions": _joined(run.versions for run in made_it),
        "seconds": sum(run.seconds for run in runs),
        "started": min(run.started for run in runs),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "code": code,
    }


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its ``seal``, a hash of all the rest, that shows whether it was altered."""
    rest = {key: value for key, value in record.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True, allow_nan=False)
    return {**rest, "seal": hashlib.sha256(text.encode()).hexdigest()}


def describe(record: Mapping[str, Any]) -> str:
    """Say in a sentence or two which preset and device made a result, when, and with what."""
    counts = ", ".join(f"{number} {status}" for status, number in record["statuses"].items())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    revision = record.get("revision")
    left = f", {record['left']} more of the grid are not made yet" if record.get("left") else ""
    return (
        f"{record['name']}, preset {record['preset']}: {record['runs']} runs ({counts}{left}) on "
        f"{' and '.join(record['devices'])}, {duration(record['seconds'])} of computing, "
        f"{record['date'][:10]}; {versions}{f'; revision {revision}' if revision else ''}. "
        f"Made by `{command(record['name'], record['preset'])}`."
    )


def command(name: str, preset: str) -> str:
    """The command that makes a stored result."""
    return f"make results PRESET={preset} ONLY={name}"


def require_devices(configs: Sequence[object], *, name: str, preset: str) -> None:
    """Raise RuntimeError if a config asks for a GPU and there is none."""
    wanted = any(str(getattr(config, "device", "")).startswith("cuda") for config in configs)
    if wanted and not gpu_available():
        raise RuntimeError(
            f"the preset {preset} of {name} needs a GPU, and PyTorch finds none here. "
            f"Without one: `{command(name, 'default')}`."
        )


def gpu_available() -> bool:
    """Whether PyTorch finds a GPU here."""
    import torch

    return torch.cuda.is_available()


def distinct(values: Iterable) -> list:
    """The distinct values, lists among them, in the order of their first appearance."""
    found: dict = {}
    for value in values:
        found.setdefault(json.dumps(value), value)
    return list(found.values())


def _joined(records: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Versions of all runs: those that agree once, those that do not side by side."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in record.items():
            found.setdefault(name, {})[version] = None
    return {name: " and ".join(versions) for name, versions in found.items()}


def revision() -> str | None:
    """The git revision of the repository, marked if the code differs from it; None without git."""

    def git(*arguments: str) -> str:
        options = {"cwd": ROOT, "capture_output": True, "text": True, "check": True, "timeout": 30}
        return subprocess.run(["git", *arguments], **options).stdout.strip()

    try:
        revision = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", "src")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{revision} with changes" if changed else revision


def duration(seconds: float) -> str:
    """A time in words."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
