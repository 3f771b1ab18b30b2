"""How to cite the book and its paper, as CITATION.cff has them, in BibTeX."""

from typing import Any

import yaml

from study import ROOT
from study.pages.generated import Generated


def record() -> dict[str, Any]:
    """The content of CITATION.cff."""
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def title() -> str:
    """The title of the book with its subtitle."""
    return record()["title"]


def author(person: dict[str, str]) -> str:
    """A person as BibTeX has it; the name of a group stands in braces, not to be taken apart."""
    if "name" in person:
        return f"{{{person['name']}}}"
    return f"{person['family-names']}, {person['given-names']}"


def bibtex(cited: dict[str, Any], kind: str, key: str) -> str:
    """The BibTeX entry of a record, or of one of its references.

    Example:
        >>> print(bibtex({"title": "On x", "authors": [{"name": "We"}], "year": 2026}, "misc", "x"))
        @misc{x,
          author  = {{We}},
          title   = {On x},
          year    = {2026},
        }
    """
    year = cited.get("year") or str(cited["date-released"])[:4]
    numbers = [i["value"] for i in cited.get("identifiers", []) if i["type"] == "other"]
    eprint = next((n.removeprefix("arXiv:") for n in numbers if n.startswith("arXiv:")), None)
    fields = {
        "author": " and ".join(map(author, cited["authors"])),
        "title": cited["title"],
        "journal": cited.get("journal"),
        "volume": cited.get("volume"),
        "pages": cited.get("start"),
        "year": year,
        "version": cited.get("version"),
        "doi": cited.get("doi"),
        "eprint": eprint,
        "archiveprefix": eprint and "arXiv",
    }
    width = max(len(name) for name in ("journal", *(n for n in fields if fields[n])))
    lines = [f"  {name:{width}} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


class Citation(Generated):
    """Who wrote the book, under which licenses, and the entries to cite it and the paper."""

    def lines(self) -> list[str]:
        book = record()
        (paper,) = book["references"]
        names = ", ".join(person["name"] for person in book["authors"])
        licenses = self.config.html_theme_options["extra_footer"]
        return [
            f"By {names}. Version {book['version']}, {book['date-released']}. {licenses}",
            "",
            "```bibtex",
            bibtex(book, "misc", "unstablebydesign"),
            "```",
            "",
            "The paper that it accompanies:",
            "",
            "```bibtex",
            bibtex(paper, "article", "wang2026instabilities"),
            "```",
        ]


def register(app) -> None:
    """Register the directive."""
    app.add_directive("how-to-cite", Citation)
