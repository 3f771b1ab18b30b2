"""tools/make_pdf.py: the PDF holds the whole book, with its numbers, its links and its fonts."""

import re
import subprocess
import sys
from pathlib import Path

import make_pdf
import pytest
import yaml
from bs4 import BeautifulSoup
from pypdf import PdfReader

from study import ROOT

HTML = ROOT / "_build/html"


CHAPTERS = make_pdf.printed_pages(ROOT)
OWN_FONTS = re.compile(r"/[A-Z]{6}\+(STIXGeneral|DejaVuSansMono|MJX|MathJax)")


class Printed:
    """The PDF of the built book: its reader, the text of its pages, and where each part begins."""

    def __init__(self, path: Path):
        self.reader = PdfReader(path)
        self.pages = [page.extract_text() for page in self.reader.pages]
        ids = {page.indirect_reference.idnum: i for i, page in enumerate(self.reader.pages)}
        targets = self.reader.named_destinations
        self.places = {name.lstrip("/"): ids[d.page.idnum] for name, d in targets.items()}

    def text_of(self, chapter) -> str:
        """The text from the first page of a chapter to the page where the next thing begins."""
        first = self.places[f"{chapter.slug}--top"]
        starts = [self.places[f"{other.slug}--top"] for other in CHAPTERS]
        last = min((page for page in starts if page > first), default=len(self.pages))
        return " ".join(" ".join(self.pages[first:last]).split())


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pdf")
    tool = [sys.executable, ROOT / "tools/make_pdf.py", "--output", folder]
    result = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return Printed(folder / "unstable-by-design.pdf")


def page_of(chapter) -> BeautifulSoup:
    page = HTML / f"{chapter.document}.html"
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find("article")


def numbers_in(article: BeautifulSoup) -> set[str]:
    """The numbers of a page's statements, exercises, figures and equations, as they are shown."""
    shown = article.select(".caption-number, .admonition-title > .caption-number, .eqno")
    found = {" ".join(tag.get_text().replace("#", "").split()) for tag in shown}
    return {number for number in found if re.search(r"\d", number)}


# One test, so that the book is printed once however the tests are distributed.
@pytest.mark.book
@pytest.mark.browser
@pytest.mark.pdf
def test_the_pdf_is_the_book(printed):
    numbered = 0
    for chapter in CHAPTERS:
        article, text = page_of(chapter), printed.text_of(chapter)
        for number in numbers_in(article):
            assert number in text, (chapter.document, number)
            numbered += 1
    assert numbered > 200, "the numbers of the pages were not found"

    outline = [item.title for item in flattened(printed.reader.outline)]
    for chapter in CHAPTERS:
        title = " ".join(page_of(chapter).find("h1").get_text().replace("#", "").split())
        assert title in outline
        if chapter.part:
            assert chapter.part in outline

    # The page number in the table of contents is that of the page.
    listing = " ".join(" ".join(printed.pages[: printed.places["intro--top"]]).split())
    for chapter in CHAPTERS[1:]:
        title = " ".join(page_of(chapter).find("h1").get_text().replace("#", "").split())
        number = printed.places[f"{chapter.slug}--top"] + 1
        assert re.search(rf"{re.escape(title)} ?{number}\b", listing), (title, number)

    for page in printed.reader.pages:
        for annotation in page.get("/Annots", []):
            target = annotation.get_object().get("/Dest")
            assert target is None or str(target).lstrip("/") in printed.places, target

    # Every font is in the file, and is one that comes with the book: no character was missing.
    for page in printed.reader.pages:
        for font in page["/Resources"].get("/Font", {}).values():
            check_font(font.get_object())

    text = " ".join(printed.pages)
    assert "\ufffd" not in text
    assert not re.search(r"\\(frac|lambda|eta|theta)\b|\{(prf:ref|glue|cite)", text)


def flattened(outline) -> list:
    return [
        item for part in outline for item in (flattened(part) if isinstance(part, list) else [part])
    ]


def check_font(font) -> None:
    if font["/Subtype"] == "/Type3":
        assert font["/CharProcs"], "its glyphs are drawn in the file"
        return
    assert OWN_FONTS.match(font["/BaseFont"]), font["/BaseFont"]
    inner = font["/DescendantFonts"][0].get_object()["/FontDescriptor"].get_object()
    assert any(key in inner for key in ("/FontFile", "/FontFile2", "/FontFile3"))


@pytest.fixture
def small_book(tmp_path):
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters/one.html").write_text(
        '<article><section id="s"><h1>One<a class="headerlink" href="#s">#</a></h1>'
        '<p id="p">3 × 10⁻⁷ <a href="#p">here</a> <a href="two.html">two</a> '
        '<a href="two.html#q">part</a> <a href="api.html">api</a> '
        '<a href="https://a.org/x.html">out</a></p><img src="../_images/a%20b.svg" alt="a">'
        '<section id="t"><h2>First</h2></section><section id="u"><h2>1.2. Summary</h2></section>'
        '<div class="cell tag_hide-input"><div class="cell_input">plot</div></div>'
        "<details><summary>2 tests</summary>Checked.</details><button>Step</button>"
        '<div class="live-figure" data-figure="polarity">It moves.</div>'
        "</section></article>"
    )
    return tmp_path


def test_a_page_is_prepared_for_paper(small_book):
    chapter = make_pdf.Chapter("chapters/one", "Part")
    slugs = {small_book / f"chapters/{name}.html": name for name in ("one", "two")}
    make_pdf.read_page(chapter, small_book, slugs)
    body = BeautifulSoup(chapter.body, "html.parser")
    assert chapter.title == "One"
    assert chapter.sections == [("one--t", "First")]
    links = {a.get_text(): a["href"] for a in body.find_all("a")}
    assert links == {
        "here": "#one--p",
        "two": "#two--top",
        "part": "#two--q",
        "out": "https://a.org/x.html",
    }
    assert "api" in body.get_text()
    assert body.find("sup").get_text() == "−7"
    assert body.find("img")["src"] == (small_book / "_images/a b.svg").as_uri()
    assert "plot" not in body.get_text()
    assert body.details.has_attr("open"), "what is folded is open"
    assert not body.button
    assert body.select_one(".live-figure")["data-figure"] == "polarity"
    assert [h.name for h in body.find_all(["h1", "h2", "h3"])] == ["h2", "h3", "h3"]


def test_live_figures_are_drawn_where_there_are_some(small_book):
    page = (small_book / "chapters/one.html").read_text()
    (small_book / "chapters/one.html").write_text(page + "<script>window.MathJax = {}</script>")
    chapter = make_pdf.Chapter("chapters/one", "Part", "One")
    book = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    script = "_static/playground/figures.js"
    still = make_pdf.joined([chapter], book, small_book)
    assert script not in still
    assert "CC BY 4.0" in still
    chapter.body = '<div class="live-figure" data-figure="polarity"></div>'
    assert script in make_pdf.joined([chapter], book, small_book)


def test_a_page_that_is_not_built_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.html is missing: build the book"):
        make_pdf.read_page(make_pdf.Chapter("chapters/absent", ""), tmp_path, {})


def test_contents_follow_the_table_and_leave_out_what_is_for_looking_up(tmp_path):
    toc = tmp_path / "_toc.yml"
    toc.write_text(
        "format: jb-book\nroot: chapters/intro\nparts:\n- caption: First\n  chapters:\n"
        "  - file: chapters/one\n    sections:\n    - file: chapters/inner\n"
        "- caption: Second\n  chapters:\n  - file: chapters/api_theory\n  - file: chapters/two\n"
    )
    found = [(chapter.slug, chapter.part) for chapter in make_pdf.printed_pages(tmp_path)]
    assert found == [("intro", ""), ("one", "First"), ("inner", "First"), ("two", "Second")]
