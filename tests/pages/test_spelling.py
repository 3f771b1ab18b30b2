"""The spelling of the book's prose, against an American dictionary and the project's own words.

Prose is the text of the chapters and pages with the captions and alternative texts of figures,
without formulas, code, links and names of references. tests/words.txt lists the words that the
dictionary lacks: names, and terms of mathematics and of this subject.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from spylls.hunspell import Dictionary

from study import ROOT
from study.pages import notebooks

WORDS = Path(__file__).with_name("words.txt")
PAGES = sorted(
    [
        *(ROOT / "chapters").glob("*.ipynb"),
        *(ROOT / "chapters").glob("*.md"),
        *ROOT.glob("*.md"),
    ]
)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)

# Directives whose content is no prose.
OPAQUE = {"bibliography", "code-cell", "literalinclude", "math", "raw", "toctree", "image"}
FENCE = re.compile(r"^\s*(`{3,}|:{3,}|~{3,})(?:\{([\w:-]+)\})?[ \t]*(.*)$")
# Directives that take a label or a file in their first line, where others take a title.
LABELLED = {"proof", "solution", "solution-start", "solution-end", "exercise-end", "figure"}

# {ref}`text <label>` and {term}`text` read as their text.
ROLE_WITH_TEXT = re.compile(r"\{[\w:-]+\}`([^`<]+?)\s*<[^<>`]*>`|\{term\}`([^`<]+)`")
# What else is not prose, in the order in which it is taken out.
NOT_PROSE = [
    r"(?s)<!--.*?-->",
    r"(?s)\A---\n.*?\n---\n",
    r"(?m)^\s*:[\w-]+:(?!`).*$",
    r"(?m)^\([\w:-]+\)=$",
    r"(?s)\$\$.*?\$\$(?: *\([\w-]+\))?",
    r"(?s)\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
    r"\$(?:\\.|[^$\\])+\$(?:-?(?:st|nd|rd|th)\b)?",
    r"\{[\w:-]+\}`[^`]*`",
    r"`{2}.+?`{2}|`[^`]*`",
    r"\]\([^)]*\)",
    r"https?://\S+|\b[\w.-]+@[\w.-]+|\b[\w./-]+\.(?:py|md|ipynb|toml|yml|txt|org|io|js|ts)\b",
    r"</?[a-z][^>]*>|&\w+;",
]


def markdown(page: Path) -> str:
    """The text of a page: of a notebook its cells of text, and its captions."""
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    parts = []
    for cell in notebooks.cells(page):
        if cell["cell_type"] == "markdown":
            parts.append(notebooks.source(cell))
        parts.append(notebooks.figure(cell).get("caption", ""))
        parts.append(cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", ""))
    return "\n\n".join(parts)


def unfenced(text: str) -> str:
    """Text without blocks of code, and without the fences of the directives that hold prose."""
    kept, opened = [], []
    for line in text.splitlines():
        found = FENCE.match(line)
        opaque = bool(opened) and opened[-1][1] in OPAQUE
        if not found:
            kept.append("" if opaque else line)
            continue
        fence, directive, title = found.groups()
        closes = opened and not directive and not title and fence[0] == opened[-1][0][0]
        if closes and len(fence) >= len(opened[-1][0]):
            opened.pop()
        elif not opaque:
            opened.append((fence, directive or "raw"))
            if directive and directive.removeprefix("prf:") not in LABELLED | OPAQUE:
                kept.append(title)
                continue
        kept.append("")
    return "\n".join(kept)


def prose(text: str) -> str:
    """Text without formulas, code, links and markup."""
    text = ROLE_WITH_TEXT.sub(r" \1\2 ", unfenced(text))
    for pattern in NOT_PROSE:
        text = re.sub(pattern, " ", text)
    return text


def words(text: str) -> set[str]:
    """The words of prose; what holds digits, underscores or no small letter is none."""
    text = text.replace("’", "'")
    found = re.findall(r"(?<![\w.])[^\W\d_]+(?:'[^\W\d_]+)*(?![\w])", text)
    return {word.removesuffix("'s") for word in found if re.search("[a-zà-ÿ]", word)} - {""}


@cache
def dictionary() -> Dictionary:
    return Dictionary.from_files("en_US")


@cache
def own_words() -> frozenset[str]:
    return frozenset(WORDS.read_text(encoding="utf-8").split())


@cache
def is_in_dictionary(word: str) -> bool:
    return len(word) == 1 or dictionary().lookup(word)


def is_known(word: str) -> bool:
    """Whether a word is in a list; at the start of a sentence it may be capitalized."""
    return {word, word[0].lower() + word[1:]} & own_words() != set() or is_in_dictionary(word)


@every_page
def test_words_are_spelled_as_in_a_dictionary(page):
    unknown = sorted(word for word in words(prose(markdown(page))) if not is_known(word))
    assert not unknown, f"mend these, or add them to tests/words.txt: {' '.join(unknown)}"


def test_own_words_are_sorted_used_and_needed():
    listed = WORDS.read_text(encoding="utf-8").splitlines()
    assert listed == sorted(set(listed), key=lambda word: (word.lower(), word))
    used = set().union(*(words(prose(markdown(page))) for page in PAGES))
    used |= {word[0].lower() + word[1:] for word in used}
    assert [word for word in listed if word not in used] == []
    assert [word for word in listed if is_in_dictionary(word)] == []


def test_common_misspellings_are_absent():
    text = "\n".join(prose(markdown(page)) for page in PAGES)
    result = codespell(text)
    assert result.returncode == 0, result.stdout + result.stderr


def codespell(text: str) -> subprocess.CompletedProcess:
    """Look for misspellings that are themselves words, or are in the project's list by mistake."""
    command = [sys.executable, "-m", "codespell_lib", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_a_misspelling_would_be_found():
    text = "The sharpnes of $formula$ is `code` {ref}`a text <label>` {ref}`label` {term}`odd`."
    assert words(prose(text)) == {"The", "sharpnes", "of", "is", "a", "text", "odd"}
    assert not is_known("sharpnes")
    assert is_known("Sharpness")
    blocks = "```{prf:proof}\n:label: no\nyes\n```\n```\nno\n```\n"
    nested = "````{note} Title\n```python\nno\n```\nmore\n````"
    assert words(prose(blocks + nested)) == {"yes", "Title", "more"}
    assert words("reader's η_1 v1 NASA don't") == {"reader", "don't"}
    assert codespell("recieve").returncode != 0
