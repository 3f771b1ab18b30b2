"""The bibliography: it parses, its entries are complete and unique, and every citation resolves."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path

import pytest
import yaml
from pybtex import PybtexEngine
from pybtex.database import BibliographyData, Entry, parse_file

import flatminima
from study import ROOT
from study.pages import notebooks

CHAPTERS = ROOT / "chapters"
BIB = CHAPTERS / "references.bib"
PAPER = "wang2026instabilities"

# {cite}`key`, {cite:t}`key1,key2` and the other roles of sphinxcontrib-bibtex; a citation may
# carry a text before and after it in braces, as in {cite:p}`{see}key{chapter 2}`.
CITATION = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
ACCENTED = re.compile(r"\{[^{}]*\}")


@pytest.fixture(scope="module")
def bibliography() -> BibliographyData:
    """The parsed references; pybtex raises on a syntax error and on a repeated key."""
    return parse_file(str(BIB), bib_format="bibtex")


def plain(text: str) -> str:
    """The text without the braces that protect capitals."""
    return text.replace("{", "").replace("}", "")


def citations_in(text: str) -> list[str]:
    """The keys that a MyST text cites, in order."""
    keys = []
    for group in CITATION.findall(text):
        keys += [ACCENTED.sub("", part).strip() for part in group.split(",")]
    return keys


def markdown_of(path: Path) -> str:
    """The prose of a chapter: the whole of a .md file, the Markdown cells of a notebook."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n".join(notebooks.markdown(path))


def chapter_files() -> list[Path]:
    return sorted([*CHAPTERS.glob("*.md"), *CHAPTERS.glob("*.ipynb")])


def isbn13_is_valid(isbn: str) -> bool:
    """Whether the weighted digit sum (weights 1, 3, 1, 3, ...) of an ISBN-13 is 0 modulo 10."""
    digits = [int(c) for c in isbn.replace("-", "")]
    return len(digits) == 13 and sum(d * (1, 3)[i % 2] for i, d in enumerate(digits)) % 10 == 0


def problems_of(entry: Entry) -> list[str]:
    """What is missing or malformed in one entry, in words."""
    fields = entry.fields
    found = [f"no {name}" for name in ("title", "year") if not fields.get(name, "").strip()]
    if not entry.persons.get("author"):
        found.append("no author")
    if not any(name in fields for name in ("doi", "url", "eprint", "isbn")):
        found.append("neither doi, url, eprint nor isbn")
    # The formats of the identifiers: DOI handbook, section 2.2; arXiv identifiers since 2007.
    formats = {
        "year": r"(19|20)\d\d",
        "doi": r"10\.\d{4,9}/\S+",
        "eprint": r"\d{4}\.\d{4,5}",
        "url": r"https://\S+",
    }
    for name, pattern in formats.items():
        if name in fields and not re.fullmatch(pattern, fields[name]):
            found.append(f"malformed {name} {fields[name]!r}")
    if "isbn" in fields and not isbn13_is_valid(fields["isbn"]):
        found.append(f"invalid ISBN {fields['isbn']!r}")
    if re.search(r"\d-\d", fields.get("pages", "")):
        found.append("page range with a single hyphen")
    venue = {"article": "journal", "inproceedings": "booktitle", "book": "publisher"}
    if entry.type in venue and venue[entry.type] not in fields:
        found.append(f"no {venue[entry.type]}")
    # Styles print the title of all but books in lower case, save what stands in braces.
    unprotected = re.sub(r"\{[^{}]*\}", "", fields.get("title", ""))[1:]
    if entry.type != "book" and re.search(r"[A-Z]", unprotected):
        found.append(f"a capital in the title that would be lost: {fields['title']!r}")
    return found


def test_every_entry_is_complete(bibliography: BibliographyData) -> None:
    problems = {key: problems_of(entry) for key, entry in bibliography.entries.items()}
    assert {key: found for key, found in problems.items() if found} == {}


def test_incomplete_entries_are_recognized() -> None:
    entry = Entry("article", {"title": "On SGD", "pages": "1-9", "doi": "https://doi.org/10.1/x"})
    found = " ".join(problems_of(entry))
    for expected in ("no year", "no author", "malformed doi", "hyphen", "no journal", "capital"):
        assert expected in found
    assert "neither" in " ".join(problems_of(Entry("misc", {"title": "T", "year": "2020"})))
    assert isbn13_is_valid("978-1-4214-0794-4")
    assert not isbn13_is_valid("978-1-4214-0794-5")
    assert not isbn13_is_valid("978-1-4214-0794")


@pytest.mark.parametrize("field", ["doi", "eprint", "isbn", "url", "title"])
def test_no_work_is_listed_twice(bibliography: BibliographyData, field: str) -> None:
    values = [
        plain(entry.fields[field]).lower()
        for entry in bibliography.entries.values()
        if field in entry.fields
    ]
    assert values, f"no entry has the field {field}"
    assert [value for value, count in Counter(values).items() if count > 1] == []


def test_titles_are_printed_as_written(bibliography: BibliographyData) -> None:
    """The style of the book keeps every title, capitals included, and raises no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        printed = PybtexEngine().format_from_file(
            str(BIB), style="alpha", output_backend="plaintext", capture=False
        )
    missing = [
        key
        for key, entry in bibliography.entries.items()
        if plain(entry.fields["title"]) not in printed
    ]
    assert missing == []


def test_citations_are_found_in_every_form() -> None:
    text = "a {cite}`one2001`, {cite:t}`two2002, three2003` and {cite:p}`{see}four2004{ch. 2}`"
    assert citations_in(text) == ["one2001", "two2002", "three2003", "four2004"]
    assert citations_in("code `cite` and {doc}`five2005`") == []


def test_every_citation_has_an_entry(bibliography: BibliographyData) -> None:
    cited = {path.name: citations_in(markdown_of(path)) for path in chapter_files()}
    unknown = {
        name: sorted(set(keys) - set(bibliography.entries))
        for name, keys in cited.items()
        if set(keys) - set(bibliography.entries)
    }
    assert unknown == {}
    everywhere = {key for keys in cited.values() for key in keys}
    assert PAPER in everywhere
    uncited = sorted(set(bibliography.entries) - everywhere)
    assert uncited == [], "in references.bib but cited nowhere"


def test_citation_file_agrees_with_the_bibliography(bibliography: BibliographyData) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    required = {"cff-version", "message", "title", "authors", "version", "date-released", "license"}
    assert required <= set(citation)
    assert citation["version"] == flatminima.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(citation["date-released"]))
    (paper,) = [ref for ref in citation["references"] if ref["type"] == "article"]
    entry = bibliography.entries[PAPER]
    assert paper["title"] == plain(entry.fields["title"])
    assert paper["doi"] == entry.fields["doi"]
    assert paper["journal"] == entry.fields["journal"]
    assert str(paper["volume"]) == entry.fields["volume"]
    assert str(paper["start"]) == entry.fields["pages"]
    assert str(paper["year"]) == entry.fields["year"]
    assert paper["identifiers"][0]["value"] == f"arXiv:{entry.fields['eprint']}"
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert names == [str(person) for person in entry.persons["author"]]
