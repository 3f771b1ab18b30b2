"""The table of contents, ``_toc.yml``, as the list of pages that it comes to."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Page:
    """One page of the book.

    Attributes:
        document: what Sphinx calls it, as in ``chapters/intro``.
        part: the caption of the part that it belongs to, "" outside of all.
    """

    document: str
    part: str

    @property
    def name(self) -> str:
        """The document without its folder."""
        return self.document.rsplit("/", 1)[-1]


def pages(source: Path) -> list[Page]:
    """The pages of the book in a folder, in their order, the first page first."""
    table = yaml.safe_load((source / "_toc.yml").read_text(encoding="utf-8"))
    found = [Page(table["root"], "")]
    for part in table.get("parts", [table]):
        found += _below(part, part.get("caption", ""))
    return found


def _below(entry: dict, part: str) -> Iterator[Page]:
    for page in [*entry.get("chapters", []), *entry.get("sections", [])]:
        yield Page(page["file"], part)
        yield from _below(page, part)


def names(source: Path) -> list[str]:
    """The names of the pages, in their order."""
    return [page.name for page in pages(source)]
