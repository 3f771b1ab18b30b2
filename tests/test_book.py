"""The built book: every page, read as a browser without a network would read it."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from bs4 import BeautifulSoup

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
PAGES = sorted(p for p in HTML.rglob("*.html") if "_static" not in p.relative_to(HTML).parts)

pytestmark = pytest.mark.book
every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda p: str(p.relative_to(HTML).with_suffix(""))
)

# Where a page can make the browser fetch something without a click.
FETCHED = {
    "script": "src", "img": "src", "source": "src", "iframe": "src", "video": "src",
    "audio": "src", "embed": "src", "object": "data", "input": "src",
}  # fmt: skip
LINK_RELATIONS = {"stylesheet", "preload", "icon", "modulepreload", "manifest", "prefetch"}


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def is_external(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ftp")


def external_resources(document: BeautifulSoup) -> list[str]:
    """Addresses outside the book from which the page would load a script, style, font or image."""
    urls = [tag.get(FETCHED[tag.name], "") for tag in document.find_all(list(FETCHED))]
    for tag in document.find_all("link"):
        if LINK_RELATIONS & set(tag.get("rel") or []):
            urls.append(tag.get("href", ""))
    for style in document.find_all("style"):
        urls += css_urls(style.string or "")
    return [url for url in urls if is_external(url)]


def css_urls(text: str) -> list[str]:
    return re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(
        r"@import\s+['\"]([^'\"]+)", text
    )


@cache
def anchors(page: Path) -> frozenset[str]:
    document = soup(page)
    names = {tag["id"] for tag in document.find_all(id=True)}
    return frozenset(names | {tag["name"] for tag in document.find_all("a", attrs={"name": True})})


def broken_links(page: Path) -> list[str]:
    """Links and resources of a page that lead to no file or no anchor of the book."""
    broken = []
    document = soup(page)
    urls = [tag["href"] for tag in document.find_all(["a", "link"], href=True)]
    urls += [tag["src"] for tag in document.find_all(["img", "script"], src=True)]
    for url in urls:
        if is_external(url) or urlsplit(url).scheme in ("mailto", "data", "javascript"):
            continue
        path, fragment = urldefrag(url)
        target = (page.parent / unquote(path.split("?")[0])).resolve() if path else page
        if target.is_dir():
            target /= "index.html"
        wanted = unquote(fragment) if target.suffix == ".html" else ""
        if not target.is_file() or (wanted and wanted not in anchors(target)):
            broken.append(url)
    return broken


def test_the_book_is_built():
    assert PAGES, "build the book first: make book"


@every_page
def test_page_loads_nothing_from_elsewhere(page):
    assert external_resources(soup(page)) == []


@every_page
def test_internal_links_lead_somewhere(page):
    assert broken_links(page) == []


@every_page
def test_every_image_has_an_alternative_text(page):
    for image in soup(page).select("article img"):
        alternative = image.get("alt", "")
        # Without a text of its own an image gets its file name, or none.
        assert len(alternative) > 15, image
        assert "_images" not in alternative, image


@every_page
def test_no_markup_is_left_raw(page):
    article = soup(page).find("article") or soup(page)
    for tag in article.select("pre, code, script, style, .math"):
        tag = tag.extract()
    text = article.get_text()
    assert not re.search(r"\{(prf:ref|numref|eq|ref|doc|cite|glue)[:}]", text)
    assert "$$" not in text
    assert not re.search(r"\\(eta|lambda|theta|frac|kappa)\b", text)
    soup.cache_clear()


def test_style_sheets_load_nothing_from_elsewhere():
    sheets = list(HTML.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        urls = css_urls(sheet.read_text(encoding="utf-8", errors="replace"))
        assert not [url for url in urls if is_external(url)], sheet


def test_numbers_in_prose_are_filled_in():
    for page in PAGES:
        assert "glue:" not in page.read_text(encoding="utf-8").replace("{glue:", ""), page


def test_a_fault_would_be_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<script src="https://cdn.example/x.js"></script><link rel="stylesheet" '
        'href="//cdn.example/x.css"><a href="absent.html">a</a><a href="#absent">b</a>'
    )
    assert len(external_resources(soup(page))) == 2
    assert sorted(broken_links(page)) == ["#absent", "absent.html"]
