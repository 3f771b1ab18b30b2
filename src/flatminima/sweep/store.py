"""The runs of a sweep in one SQLite file: kept whole or not at all, checked, claimed while made.

SQLite because a kill at any moment, several writers, a full disk and thousands of runs are what it
is made for, with two or three files for all of them. Its write-ahead log needs memory that the
writers share: on a network file system let one machine at a time write to a folder. (The workers of
a cluster need no access to it.)
"""

import dataclasses
import hashlib
import json
import sqlite3
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from flatminima.sweep.runs import Run, fields_of

__all__ = ["SweepError"]

FILE = "runs.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, run TEXT NOT NULL, seal TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS damaged (key TEXT, run, seal);
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL);
"""
PATIENCE = 60
"""Seconds to wait for another sweep that is writing."""


class SweepError(RuntimeError):
    """The sweep itself cannot go on. What had finished is stored; start it again to go on."""


class Store:
    """The stored runs of a grid, and the claims of this sweep on those that it is making.

    A claim lasts as long as its owner: each sweep holds a lock, which the operating system takes
    from it when it dies, on a file named as itself.
    """

    def __init__(self, folder: Path, grid: Mapping[str, object], retry_failed: bool) -> None:
        # Wherever a run may go, and whatever it does to its config.
        self.path = folder.absolute() / FILE
        self.grid, self.fields = grid, {key: fields_of(config) for key, config in grid.items()}
        self.finished: dict[str, Run] = {}
        self.stale: dict[str, Run] = {}
        self.lock = FileLock(self.path.parent / "sweeps" / uuid.uuid4().hex)
        self._open()
        with self._writing():
            found = self._read(list(grid))
        again = {key for key, run in found.items() if retry_failed and run.status == "failed"}
        self.stale = {key: found.pop(key) for key in again}
        self.finished = found

    def claim(self, keys: Sequence[str]) -> tuple[list[str], list[str]]:
        """Claim runs; those that are ours now, and those that another sweep is making.

        One in neither list was finished by another meanwhile, and is now in ``finished``.
        """
        with self._writing() as database:
            owners = dict(database.execute("SELECT key, owner FROM claims"))
            dead = [owner for owner in set(owners.values()) if not self._lives(owner)]
            database.executemany("DELETE FROM claims WHERE owner = ?", [(o,) for o in dead])
            taken = [key for key in keys if owners.get(key) not in (None, *dead)]
            found = self._read([key for key in keys if key not in taken])
            self.finished |= {k: run for k, run in found.items() if run != self.stale.get(k)}
            ours = [key for key in keys if key not in taken and key not in self.finished]
            own = [(key, self.lock_name) for key in ours]
            database.executemany("INSERT INTO claims VALUES (?, ?)", own)
        return ours, taken

    def keep(self, results: Mapping[str, Run]) -> None:
        """Store claimed runs, all or none, and give up the claims."""
        if not self._is_ours():
            # The folder was removed or replaced under us: begin it anew with all that we know.
            self.database.close()
            self._open()
            results = {**self.finished, **results}
        rows = [(key, *_sealed(key, run)) for key, run in results.items()]
        with self._writing() as database:
            database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", rows)
            database.executemany("DELETE FROM claims WHERE key = ?", [(key,) for key in results])
        self.finished |= results

    def confirm(self) -> None:
        """See that every finished run is on the disk, as another would read it."""
        self.database.close()
        self._open()
        with self._writing():
            there = set(self._read(list(self.grid)))
        if there != set(self.finished):
            self.keep(self.finished)

    def close(self) -> None:
        with suppress(SweepError), self._writing() as database:
            database.execute("DELETE FROM claims WHERE owner = ?", (self.lock_name,))
        self.database.close()
        self.lock.release()
        Path(self.lock.lock_file).unlink(missing_ok=True)

    def state(self, message: str) -> str:
        return (
            f"{message}. {len(self.finished)} of {len(self.grid)} runs are stored in "
            f"{self.path}; once the cause is mended, start the sweep again to make the others."
        )

    @property
    def lock_name(self) -> str:
        return Path(self.lock.lock_file).name

    def _open(self) -> None:
        self.lock.release()
        try:
            Path(self.lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(blocking=False)
            try:
                self.database = _connected(self.path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._replace_damaged(error)
            self.inode = self.path.stat().st_ino
        except (OSError, sqlite3.Error) as error:
            raise SweepError(self.state(f"{self.path} cannot be opened ({error})")) from error

    def _is_ours(self) -> bool:
        with suppress(OSError):
            locked = Path(self.lock.lock_file).exists()
            return locked and self.path.stat().st_ino == self.inode
        return False

    def _lives(self, owner: str) -> bool:
        if owner == self.lock_name:
            return True
        lock = FileLock(self.path.parent / "sweeps" / owner)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
        return False

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, done as a whole or not at all."""
        try:
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield self.database
            except BaseException:
                # SQLite may have done so already, as it does on a full disk.
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")
                raise
            self.database.execute("COMMIT")
        except sqlite3.Error as error:
            raise SweepError(self.state(f"{self.path} cannot be written ({error})")) from error

    def _read(self, keys: list[str]) -> dict[str, Run]:
        """Those of the runs that are stored; a damaged one is set aside with a warning."""
        found, damaged = {}, []
        query = "SELECT key, run, seal FROM runs WHERE key IN (SELECT value FROM json_each(?))"
        for key, text, seal in self.database.execute(query, (json.dumps(keys),)):
            run = _unsealed(key, text, seal)
            if run is None or run.config != self.fields[key]:
                damaged.append(key)
            else:
                found[key] = run
        for key in damaged:
            self.database.execute("INSERT INTO damaged SELECT * FROM runs WHERE key = ?", (key,))
            self.database.execute("DELETE FROM runs WHERE key = ?", (key,))
            message = f"the run of {self.grid[key]!r} in {self.path} is altered; it is repeated"
            warnings.warn(message, stacklevel=5)
        return found

    def _replace_damaged(self, error: sqlite3.Error) -> None:
        """Set a damaged file aside, and begin a new one with all runs that it still holds."""
        aside = self.path.with_name(f"{FILE}.damaged-{uuid.uuid4().hex[:8]}")
        for end in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{self.path}{end}").replace(f"{aside}{end}")
        rows = []
        with suppress(sqlite3.Error):
            old = sqlite3.connect(aside)
            old.text_factory = lambda content: content.decode(errors="replace")
            # Row by row, past the pages that cannot be read; a row has more than 64 bytes.
            for number in range(aside.stat().st_size // 64):
                with suppress(sqlite3.Error):
                    rows += old.execute("SELECT * FROM runs WHERE rowid = ?", (number,)).fetchall()
            old.close()
        self.database = _connected(self.path)
        rows = [row for row in rows if _unsealed(*row) is not None]
        self.database.executemany("INSERT OR IGNORE INTO runs VALUES (?, ?, ?)", rows)
        warnings.warn(
            f"{self.path} is damaged ({error}). It is now {aside.name}; {len(rows)} runs could be "
            "read in it, and the others are repeated.",
            stacklevel=5,
        )


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    database.text_factory = lambda content: content.decode(errors="replace")
    try:
        # Without shared memory, as on most network file systems, SQLite keeps its older journal.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(SCHEMA)
        # A quick check would not look at the index, by which a stored run is found.
        (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _sealed(key: str, run: Run) -> tuple[str, str]:
    text = json.dumps(dataclasses.asdict(run), allow_nan=False)
    return text, _seal(key, text)


def _unsealed(key: str, text: str, seal: str) -> Run | None:
    """The run of a row; None if it is not what was stored under this key."""
    if not isinstance(text, str) or seal != _seal(key, text):
        return None
    with suppress(TypeError):  # of a version whose runs have other attributes
        return Run(**json.loads(text))
    return None


def _seal(key: str, text: str) -> str:
    return hashlib.sha256(f"{key} {text}".encode(errors="replace")).hexdigest()
