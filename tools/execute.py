"""Execute the chapters into _book, where the book is built from.

A chapter is executed by ``pytest --nbmake``, two at a time, in a copy, so that the tracked
notebooks stay without outputs. A copy is executed again only if the notebook, the library, the
data, the stored results, the pinned versions or the preset have changed; ``--fresh`` executes
every one. The exit status is that of pytest, which names the notebook and the cell that failed.
One of these runs at a time. What is recorded of a chapter fits its executed copy or counts for
nothing, so that a kill, another writer or a lost record costs an execution and no more.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from flatminima._files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "_book"
KEYS = BOOK / "executed.json"
INPUTS = ("src", "results")


def shared_key() -> str:
    """Hash everything but the notebook itself that decides what a chapter's cells give."""
    digest = hashlib.sha256(os.environ.get("FLATMINIMA_PRESET", "default").encode())
    digest.update(sys.version.encode())
    files = [ROOT / "requirements.txt", ROOT / "chapters" / "references.bib"]
    for folder in INPUTS:
        files += (p for p in (ROOT / folder).rglob("*") if p.is_file())
    for path in sorted(p for p in files if p.suffix != ".pyc" and ".egg-info" not in str(p)):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def stage() -> None:
    """Copy everything but the notebooks to the staged book."""
    write_atomically(BOOK / "_config.yml", (ROOT / "_config.yml").read_bytes())
    shutil.copy2(ROOT / "_toc.yml", BOOK)
    chapters = ROOT / "chapters"
    ignore = shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints", "_build")
    shutil.copytree(chapters, BOOK / "chapters", ignore=ignore, dirs_exist_ok=True)
    for staged in (BOOK / "chapters").rglob("*"):
        if staged.is_file() and not (chapters / staged.relative_to(BOOK / "chapters")).exists():
            staged.unlink()


def executed() -> dict[str, list[str]]:
    """Copy -> its key and a hash of what is in it, as last recorded; {} where that is lost."""
    try:
        return dict(json.loads(KEYS.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def record(keys: dict[str, str]) -> None:
    """Keep the keys of the chapters that are executed, with what is in their copies."""
    found = {copy: [key, content(copy)] for copy, key in keys.items()}
    write_atomically(KEYS, json.dumps(found).encode())


def content(copy: str) -> str:
    """Hash of an executed copy."""
    return hashlib.sha256(Path(copy).read_bytes()).hexdigest()


def main() -> int:
    """Execute what is stale, one of these programs at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="execute every chapter again")
    arguments = parser.parse_args()
    BOOK.mkdir(exist_ok=True)
    with FileLock(BOOK / ".executing"):
        return execute(arguments.fresh)


def execute(fresh: bool) -> int:
    """Stage the book, execute what is stale, or all, and record it; the exit status of pytest."""
    stage()
    known = {} if fresh else executed()
    common, keys, stale = shared_key(), {}, []
    for source in sorted((ROOT / "chapters").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in source.parts:
            continue
        copy = BOOK / source.relative_to(ROOT)
        keys[str(copy)] = hashlib.sha256(common.encode() + source.read_bytes()).hexdigest()
        made = copy.exists() and [keys[str(copy)], content(str(copy))]
        if not made or known.get(str(copy)) != made:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            stale.append(str(copy))
    # What is about to run is unknown until it has succeeded.
    record({k: v for k, v in keys.items() if k not in stale})
    if not stale:
        print(f"{len(keys)} chapters are executed already; nothing has changed since.")
        return 0
    options = ["--nbmake", "--overwrite", "--nbmake-timeout=600"]
    options += ["-v", "--durations=0", "-p", "no:cacheprovider", "-n", "2"]
    # Two kernels share the machine, so that each may use half of its cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    os.chdir(ROOT)
    # In this process: its workers, and their kernels, end when it does, be it by kill -9.
    status = pytest.main([*options, *stale])
    if status == 0 and shared_key() == common:
        record(keys)
    elif status == 0:
        print("What the chapters need was edited meanwhile: they will be executed again.")
    return status


if __name__ == "__main__":
    sys.exit(main())
