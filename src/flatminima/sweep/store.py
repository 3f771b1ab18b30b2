"""The files of a sweep's runs: written atomically, checked when read, locked while made."""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from flatminima._files import write_atomically
from flatminima.sweep.runs import Run

__all__ = ["CorruptRunError", "SweepError"]


class SweepError(RuntimeError):
    """The sweep itself cannot go on. What had finished is stored; start it again to go on."""


class CorruptRunError(ValueError):
    """The file of a run is not what its checksum says."""


class Store:
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
                if stored is not None:
                    again = retry_failed and stored.status == "failed"
                    (self.stale if again else self.finished)[key] = stored

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
        body = dataclasses.asdict(result)
        stored = {"sha256": _checksum(body), "run": body}
        content = json.dumps(stored, indent=1, allow_nan=False)
        try:
            write_atomically(self.path(key), content.encode() + b"\n")
        except OSError as error:
            raise SweepError(self.state(f"{self.path(key)} cannot be written ({error})")) from error
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


def read(path: Path) -> Run | None:
    """The run stored in a file, None if there is none, CorruptRunError if it is not as written."""
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


def _checksum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()
