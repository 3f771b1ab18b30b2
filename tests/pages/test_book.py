"""The built book: every page, read as a browser without a network would read it."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from browsing import HTML, ROOT
from bs4 import BeautifulSoup

from study.figures import glued_numbers

EXECUTED = ROOT / "_book" / "chapters"
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
        if "=" in wanted and target.is_file() and soup(target).select(".playground, .live-figure"):
            continue  # a state, which tests of the pages that hold such links compare with it
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
def test_page_names_no_folder_of_the_machine_that_built_it(page):
    assert str(ROOT) not in page.read_text(encoding="utf-8")


@every_page
def test_page_states_its_license_and_describes_itself(page):
    document = soup(page)
    if document.select_one("article.bd-article") is None:
        pytest.skip("a page without text of its own")
    assert "MIT License" in document.select_one(".extra_footer").get_text()
    described = document.find("meta", attrs={"name": "description"})
    if described is not None:
        shared = document.find("meta", property="og:description")
        assert shared["content"] == described["content"]
        assert document.find("meta", property="og:title")["content"]


def test_chapters_are_described_by_their_first_words():
    for name in ("intro", "polarity", "adam"):
        document = soup(HTML / "chapters" / f"{name}.html")
        said = document.find("meta", attrs={"name": "description"})["content"]
        text = re.sub(r"\s+", " ", document.select_one("article.bd-article").get_text())
        assert said[:20] in text
        assert 40 < len(said) <= 203


@every_page
def test_numbers_in_the_text_are_those_of_the_cells(page):
    """Every number pasted into a page stands there as a cell of a chapter has formatted it."""
    texts = {n.text for numbers in glued_numbers(EXECUTED).values() for n in numbers.values()}
    shown = {tag.get_text().replace("\xa0", " ") for tag in soup(page).select(".pasted-text")}
    assert shown <= texts


# What an alternative text must not be: a file's name, or an announcement of what is plain.
EMPTY_WORDS = re.compile(r"_images|\.(svg|png)\b|^(image|figure|picture|plot) of\b", re.IGNORECASE)


def without_space(text: str) -> str:
    return " ".join(text.split()).rstrip(".").lower()


def poor_alternatives(page: Path) -> list[str]:
    """Images whose alternative text says nothing, or only what the caption says already."""
    poor = []
    for image in soup(page).select("article img"):
        alternative = image.get("alt", "")
        caption = image.find_parent("figure") and image.find_parent("figure").figcaption
        captions = caption.get_text() if caption else ""
        # Without a text of its own an image gets its file name, or none.
        if (
            len(alternative) <= 15
            or len(alternative.split()) < 4
            or EMPTY_WORDS.search(alternative)
            or without_space(alternative) in without_space(captions)
        ):
            poor.append(str(image))
    return poor


@every_page
def test_no_warning_or_progress_bar_is_shown(page):
    assert soup(page).select("article .output.stderr") == []


@every_page
def test_every_image_has_an_alternative_text(page):
    assert poor_alternatives(page) == []


def test_no_two_images_have_the_same_alternative_text():
    places = {}
    for page in PAGES:
        for image in soup(page).select("article img"):
            # One picture may stand on two pages, or be drawn twice, for a wide and a narrow screen.
            drawn = {Path(other["src"]).name for other in image.parent.find_all("img")}
            places.setdefault(without_space(image["alt"]), set()).add(frozenset(drawn))
    assert [text for text, pictures in places.items() if len(pictures) > 1] == []


def invalid_html(pages: list[Path]) -> list[str]:
    """What html-validate says against pages, one line a finding."""
    checker = ROOT / "tools" / "pagecheck"
    program = checker / "node_modules" / "html-validate" / "bin" / "html-validate.mjs"
    assert program.is_file(), "install what the checks need: npm ci --prefix tools/pagecheck"
    node = shutil.which("node", path=Path(sys.executable).parent)
    # Into a file: through a pipe Node.js loses what it has not sent when it exits.
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [node, program, "--config", checker / "htmlvalidate.config.mjs"]
        command += ["--formatter", f"json={report}", *pages]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert report.is_file(), result.stdout + result.stderr
        files = json.loads(report.read_text(encoding="utf-8"))
    return [
        f"{file['filePath']}:{message['line']}: {message['ruleId']}: {message['message']}"
        for file in files
        for message in file["messages"]
    ]


def test_pages_are_valid_html():
    findings = invalid_html(PAGES)
    assert not findings, "\n".join(findings[:50])


@every_page
def test_no_markup_is_left_raw(page):
    document = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    article = document.find("article") or document
    for tag in article.select("pre, code, script, style, .math, .sig"):
        tag.extract()
    text = article.get_text()
    assert not re.search(r"\{(prf:ref|numref|eq|ref|doc|cite|glue)[:}]", text)
    assert "$$" not in text
    assert not re.search(r"\\(eta|lambda|theta|frac|kappa)\b", text)


def test_style_sheets_load_nothing_from_elsewhere():
    sheets = list(HTML.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        urls = css_urls(sheet.read_text(encoding="utf-8", errors="replace"))
        assert not [url for url in urls if is_external(url)], sheet


def test_numbers_in_prose_are_filled_in():
    for page in PAGES:
        if page.parent.name in ("_modules", "tests") or "_modules" in page.parts:
            continue  # source code
        assert "glue:" not in page.read_text(encoding="utf-8").replace("{glue:", ""), page


def test_a_fault_would_be_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<script src="https://cdn.example/x.js"></script><link rel="stylesheet" '
        'href="//cdn.example/x.css"><a href="absent.html">a</a><a href="#absent">b</a>'
        '<article><figure><img alt="A curve that rises and falls."><figcaption>Top: a curve that '
        'rises and falls.</figcaption></figure><img alt="Figure of a curve that rises">'
        '<img><img alt="A curve that rises and falls in waves."><a href="#eta=1">c</a></article>'
    )
    assert len(external_resources(soup(page))) == 2
    assert sorted(broken_links(page)) == ["#absent", "#eta=1", "absent.html"]
    assert len(poor_alternatives(page)) == 3
    page.write_text(
        '<!DOCTYPE html><html lang="en"><head><title>t</title></head><body><main role="main">'
        '<p id="a">b<div id="a">c</div></main></body></html>'
    )
    rules = Counter(finding.split(": ")[1] for finding in invalid_html([page]))
    assert rules["no-dup-id"] == 1
    assert "no-redundant-role" not in rules
