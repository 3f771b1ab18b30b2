"""Make the text on which the experiments train a small transformer, of the book's own prose.

Usage: python tools/make_prose.py

The sentences of the chapters as they stood at REVISION, in the order of the table of contents,
without those that hold more than plain text: a formula, a number of a cell, a link. It prints the
SHA-256 of the text, by which `study.corpus` knows it.
"""

import hashlib
import json
import re
import subprocess
import sys

import yaml

from flatminima._files import write_atomically
from study import ROOT, corpus

REVISION = "3c383c98ce03d73bbde80a4cf293409efef1e6b8"
PLAIN = re.compile(r"[A-Za-z0-9 ,;:.?!'()/%+-]+[.?!]")
LENGTH = 40_000


def git(*arguments: str) -> str:
    """What git says."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def shown(path: str) -> str:
    """A file as it stood at REVISION."""
    return git("show", f"{REVISION}:{path}")


def sentences(markdown: str) -> list[str]:
    """Its sentences that are plain text: no formula, number from a cell, role or link in them."""
    markdown = re.sub(r"^(`{3,}|:{3,}).*?^\1\s*$", "\n", markdown, flags=re.M | re.S)
    kept = []
    for block in re.split(r"\n\s*\n", markdown):
        line = " ".join(block.split()).replace("*", "")
        if line[:1].isupper():
            found = re.split(r"(?<=[.?!]) (?=[A-Z])", line)
            kept += [s for s in found if PLAIN.fullmatch(s) and " " in s]
    return kept


def text() -> str:
    """The text, of LENGTH characters at most, sentence by sentence."""
    found, there = [], git("ls-tree", "-r", "--name-only", REVISION).splitlines()
    for part in yaml.safe_load(shown("_toc.yml"))["parts"]:
        for chapter in part["chapters"]:
            if f"{chapter['file']}.ipynb" in there:
                cells = json.loads(shown(f"{chapter['file']}.ipynb"))["cells"][1:]
                prose = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
                found += sentences("\n\n".join(prose))
    whole = " ".join(found)
    return whole[: whole.rindex(" ", 0, LENGTH)] + "\n"


def main() -> int:
    """Write the text where `study.corpus` reads it; 1 if it is another than the stored runs had."""
    made = text().encode()
    write_atomically(corpus.TEXT, made)
    digest = hashlib.sha256(made).hexdigest()
    print(f"{corpus.TEXT.name}: {len(made)} bytes, SHA-256 {digest}")
    if digest != corpus.SHA256:
        print(f"the stored results were made with {corpus.SHA256}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
