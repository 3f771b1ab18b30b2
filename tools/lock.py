"""Write constraints.txt, which pins all that requirements.txt leads to: ``python tools/lock.py``.

What is pinned is what is installed here, in a fresh environment as a rule. There are no hashes: the
build of PyTorch differs from system to system.
"""

import hashlib
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from flatminima._files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements.txt"
LOCK = ROOT / "constraints.txt"
OWN = "flatminima"


def platform_name() -> str:
    """What other packages may be needed elsewhere depends on this."""
    return f"Python {sys.version_info[0]}.{sys.version_info[1]}, {platform.system()}"


def heading() -> list[str]:
    """The lines that say what the lock was made for."""
    asked = [REQUIREMENTS.read_bytes(), (ROOT / "pyproject.toml").read_bytes()]
    digest = hashlib.sha256(b"".join(asked).replace(b"\r\n", b"\n")).hexdigest()
    return [
        "# All that requirements.txt leads to. Made by `python tools/lock.py`.",
        f"# {platform_name()}; requirements {digest[:16]}",
    ]


def needed() -> dict[str, str]:
    """Name -> version of each installed distribution that the requirements lead to."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    waiting = [Requirement(line) for line in lines if line[:1].isalpha()] + [Requirement(OWN)]
    seen: set[tuple[str, str]] = set()
    found = {}
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            found[name] = metadata.version(name).partition("+")[0]
            for text in metadata.requires(name) or ():
                further = Requirement(text)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    waiting.append(further)
    del found[OWN]
    return dict(sorted(found.items()))


def main() -> int:
    """Write the lock."""
    lines = [*heading(), *(f"{name}=={version}" for name, version in needed().items())]
    write_atomically(LOCK, ("\n".join(lines) + "\n").encode())
    print(f"{len(lines) - 2} distributions are pinned in {LOCK}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
