"""Print the built book as one PDF: ``python tools/make_pdf.py`` after ``make book``.

The pages under ``_build/html`` are joined in the order of ``_toc.yml`` and printed by a headless
Chromium, so that statements, figures and equations have the numbers that they have there. The
result, ``_build/pdf/unstable-by-design.pdf``, has a table of contents with page numbers, an
outline, links, running heads and vector figures. Its fonts come with matplotlib and MathJax: it
does not depend on what is installed.

What only works on a screen is left out: the playgrounds, the code that draws a figure, and the
reference of the library. A live figure is drawn at rest, the whole of its motion in one picture,
without its controls; what is folded is open.
"""

import argparse
import base64
import html
import re
import sys
import tempfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import browser
import matplotlib
import yaml
from bs4 import BeautifulSoup
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, TextStringObject

from flatminima._files import write_atomically
from study.pages import contents

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = re.compile(r"chapters/(api\w*|tests)$")
"""Pages that are left out: tables made for looking things up by their links."""

SUPERSCRIPT = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
LOWERED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "−0123456789")

SCREEN_ONLY = (
    "a.headerlink", "script", "style", "button", "nav", "iframe", "[data-playground]",
    "[data-figure=network]",  # which trains as one looks on, and is nothing at rest
    "div.toctree-wrapper", "details.hide", "div.tag_hide-input > div.cell_input", "noscript",
)  # fmt: skip

TYPESET = """
const done = arguments[arguments.length - 1];
const fit = (box, inner) => {
  const wide = inner.scrollWidth, room = box.clientWidth;
  if (wide > room + 1) {
    const size = parseFloat(getComputedStyle(box).fontSize);
    box.style.fontSize = Math.floor(100 * size * room / wide) / 100 + "px";
  }
};
const frame = () => new Promise((drawn) => requestAnimationFrame(drawn));
MathJax.startup.promise.then(() => document.fonts.ready).then(frame).then(frame).then(() => {
  // What is too wide for the paper gets smaller: a formula, then a table.
  for (const box of document.querySelectorAll("mjx-container[display=true]")) {
    const parts = [...box.children].filter((e) => e.tagName === "MJX-MATH");
    const room = box.clientWidth, wide = Math.max(...parts.map((e) => e.scrollWidth), 0);
    const number = box.parentElement.querySelector(".eqno");
    const space = room - (number ? number.offsetWidth + 12 : 0);
    if (wide > space) {
      const size = parseFloat(getComputedStyle(box).fontSize);
      box.style.fontSize = Math.floor(100 * size * space / wide) / 100 + "px";
    }
  }
  for (const table of document.querySelectorAll("table")) fit(table.parentElement, table);
  const room = document.documentElement.clientWidth;
  const wide = [...document.querySelectorAll("p, pre, figure, table, mjx-container")]
    .filter((e) => e.getBoundingClientRect().right > room + 1)
    .map((e) => `too wide for the paper: ${e.textContent.slice(0, 80)}`);
  const bad = [...document.querySelectorAll("mjx-merror")]
    .map((e) => `cannot be typeset: ${e.textContent.slice(0, 80)}`);
  const absent = [...document.images].filter((e) => !e.naturalWidth)
    .map((e) => `is missing: ${e.src}`);
  const waiting = [...document.querySelectorAll(".live-figure")].filter((e) => !e.dataset.ready)
    .map((e) => `is not drawn: the live figure ${e.dataset.figure}`);
  done([...new Set([...bad, ...wide, ...absent, ...waiting])]);
});
"""

FILL_IN = """
for (const place of document.querySelectorAll("[data-page]"))
  place.textContent = arguments[0][place.dataset.page] || "";
"""


@dataclass
class Chapter:
    """One page of the book: its document, part, title, sections as (anchor, HTML), and HTML."""

    document: str
    part: str
    title: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""

    @property
    def slug(self) -> str:
        return self.document.rsplit("/", 1)[-1]


def printed_pages(source: Path) -> list[Chapter]:
    """List the pages of a book that are printed, in their order."""
    pages = contents.pages(source)
    return [Chapter(p.document, p.part) for p in pages if not SKIPPED.search(p.document)]


def read_page(chapter: Chapter, folder: Path, slugs: dict[Path, str]) -> None:
    """Fill in a chapter from its page: links lead within the PDF, and screen parts are gone."""
    page = folder / f"{chapter.document}.html"
    if not page.is_file():
        raise ValueError(f"{page} is missing: build the book first, by `make book`")
    article = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find("article")
    playground = bool(article.select("[data-playground]"))
    for tag in article.select(", ".join(SCREEN_ONLY)):
        tag.decompose()
    for tag in article.find_all("details"):
        tag["open"] = ""
    for tag in article.find_all(id=True):
        tag["id"] = f"{chapter.slug}--{tag['id']}"
    for tag in article.find_all("a", href=True):
        relink(tag, page, slugs)
    for tag in article.find_all("img", src=True):
        if not urlsplit(tag["src"]).scheme:
            tag["src"] = (page.parent / unquote(tag["src"])).resolve().as_uri()
        tag.attrs.pop("loading", None)

    title = article.find("h1")
    chapter.title = title.get_text().strip()
    title["id"] = f"{chapter.slug}--top"
    for heading in article.find_all("h2"):
        section, text = heading.find_parent("section"), heading.get_text().strip()
        if not text.endswith(("Summary", "Further reading")):
            # With its formulas; a link within would end the one that the contents make of it.
            shown = BeautifulSoup(heading.decode_contents(), "html.parser")
            for link in shown.find_all("a"):
                link.unwrap()
            chapter.sections.append((section["id"], shown.decode().strip()))
    # Parts are the first level of the PDF's outline, chapters the second.
    for level in range(5, 0, -1):
        for heading in article.find_all(f"h{level}"):
            heading.name = f"h{level + 1}"
    if playground:
        note = "<p><em>The playground itself moves only in the pages of the book.</em></p>"
        article.find("h2").insert_after(BeautifulSoup(note, "html.parser"))
    for text in article.find_all(string=SUPERSCRIPT):
        # A raised numeral of its own is in few fonts.
        raised = SUPERSCRIPT.sub(lambda m: f"<sup>{m[0].translate(LOWERED)}</sup>", str(text))
        text.replace_with(BeautifulSoup(raised, "html.parser"))
    chapter.body = article.decode_contents()


def relink(tag, page: Path, slugs: dict[Path, str]) -> None:
    """Point a link at its place in the PDF; one that leads nowhere there becomes plain text."""
    parts = urlsplit(tag["href"])
    if parts.scheme or parts.netloc:
        return
    path, anchor = urldefrag(tag["href"])
    target = (page.parent / unquote(path)).resolve() if path else page.resolve()
    if target in slugs:
        tag["href"] = f"#{slugs[target]}--{unquote(anchor) or 'top'}"
    else:
        tag.unwrap()


def joined(chapters: list[Chapter], book: dict, html_folder: Path) -> str:
    """Return the whole book as one HTML document, its table of contents without page numbers."""
    numbers, body, rules, part = [], [], [], ""

    def line(anchor, text, kind):
        numbers.append(
            f'<li class="{kind}"><a href="#{anchor}"><span>{text}</span>'
            f'<span data-page="{anchor}"></span></a></li>'
        )

    for index, chapter in enumerate(chapters):
        if chapter.part != part:
            part = chapter.part
            anchor = f"part--{index}"
            line(anchor, html.escape(part), "part")
            body.append(
                f'<section class="part" id="{anchor}"><h1>{html.escape(part)}</h1></section>'
            )
        line(f"{chapter.slug}--top", html.escape(chapter.title), "chapter")
        for anchor, title in chapter.sections:
            line(anchor, title, "section")
        head = chapter.title.replace("\\", "").replace('"', "'")
        rules.append(
            f"#c{index} {{ page: c{index} }} @page c{index} {{ @top-right {{ "
            f'content: "{head}"; }} }}'
        )
        body.append(f'<article class="chapter" id="c{index}">{chapter.body}</article>')

    first = BeautifulSoup(
        (html_folder / f"{chapters[0].document}.html").read_text(encoding="utf-8"), "html.parser"
    )
    settings = next(s.string for s in first.find_all("script") if "window.MathJax" in s.text)
    mathjax = (html_folder / "_static/mathjax/tex-chtml.js").as_uri()
    style = (Path(__file__).parent / "make_pdf.css").read_text(encoding="utf-8")
    style = style.replace("FONTS", (Path(matplotlib.get_data_path()) / "fonts/ttf").as_uri())
    colors = (html_folder / "_static/pygments.css").as_uri()
    license_line = book["sphinx"]["config"]["html_theme_options"]["extra_footer"]
    live = ""
    if any("data-figure=" in chapter.body for chapter in chapters):
        sheet, script = (
            (html_folder / "_static" / name).as_uri()
            for name in ("playground.css", "playground/figures.js")
        )
        live = f'<link rel="stylesheet" href="{sheet}"><script defer src="{script}"></script>'
    return f"""<!doctype html>
<html lang="en" data-theme="light"><head><meta charset="utf-8">
<title>{html.escape(book["title"])}</title>
<meta name="author" content="{html.escape(book["author"])}">
<link rel="stylesheet" href="{colors}">{live}<style>{style} {" ".join(rules)}</style>
<script>{settings}</script><script defer src="{mathjax}"></script></head>
<body class="mathjax_ignore"><section class="cover">
<p class="title">{html.escape(book["title"])}</p>
<p class="subtitle">How training instabilities find flat minima</p>
<p class="author">{html.escape(book["author"])}</p>
<p class="license">{html.escape(license_line)}</p></section>
<section class="contents"><h1>Contents</h1><ol>{"".join(numbers)}</ol></section>
{"".join(body)}</body></html>"""


def typeset(driver, path: Path) -> None:
    """Open a document and wait until its mathematics is set."""
    driver.get(path.as_uri())
    faults = driver.execute_async_script(TYPESET)
    if faults:
        # One thing too wide would make Chromium print every page smaller.
        raise ValueError("\n".join(faults))


def printed(driver, pages: dict[str, int]) -> bytes:
    """Print the open document with these page numbers in its table of contents."""
    driver.execute_script(FILL_IN, pages)
    options = {
        "preferCSSPageSize": True,
        "printBackground": True,
        "generateTaggedPDF": True,
        "generateDocumentOutline": True,
    }
    return base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", options)["data"])


def page_numbers(pdf: bytes) -> dict[str, int]:
    """Return the page on which each anchor lies, counted from 1."""
    reader = PdfReader(BytesIO(pdf))
    pages = {page.indirect_reference.idnum: i for i, page in enumerate(reader.pages, 1)}
    found = {}
    for name, target in reader.named_destinations.items():
        found[name.lstrip("/")] = pages[target.page.idnum]
    return found


def with_whole_titles(pdf: bytes, titles: list[str]) -> bytes:
    """Mend the outline, where Chromium drops the space at which a title breaks into two lines."""
    writer = PdfWriter(clone_from=BytesIO(pdf))
    whole = {re.sub(r"\s", "", title): title for title in titles}

    def mend(item):
        while item is not None:
            item = item.get_object()
            bare = re.sub(r"\s", "", item["/Title"])
            item[NameObject("/Title")] = TextStringObject(whole.get(bare, item["/Title"]))
            mend(item.get("/First"))
            item = item.get("/Next")

    mend(writer.root_object["/Outlines"].get_object().get("/First"))
    result = BytesIO()
    writer.write(result)
    return result.getvalue()


def printer(profile: str):
    """Start a browser that may read the book's fonts from the disk, as wide as the paper."""
    flags = ("--allow-file-access-from-files", f"--user-data-dir={profile}")
    driver = browser.found().start(*flags)
    driver.command_executor.client_config.timeout = 900
    driver.set_script_timeout(900)
    driver.set_page_load_timeout(900)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    # The width of the text on the paper, in CSS pixels, so that what is too wide is seen; live
    # figures are drawn with three dots to each.
    size = {"width": 635, "height": 1000, "deviceScaleFactor": 3, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return driver


def main() -> int:
    """Join the pages, print them, and print again with the page numbers that this gave."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, default=ROOT / "_build/html", help="the built pages")
    parser.add_argument("--output", type=Path, default=ROOT / "_build/pdf", help="folder to write")
    arguments = parser.parse_args()

    book = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    folder = arguments.html.resolve()
    chapters = printed_pages(ROOT)
    slugs = {folder / f"{chapter.document}.html": chapter.slug for chapter in chapters}
    for chapter in chapters:
        read_page(chapter, folder, slugs)

    source = arguments.output.resolve() / "book.html"
    write_atomically(source, joined(chapters, book, folder).encode())
    result = source.with_name("unstable-by-design.pdf")
    with tempfile.TemporaryDirectory() as profile:
        driver = printer(profile)
        try:
            typeset(driver, source)
            pages: dict[str, int] = {}
            for _ in range(3):
                pdf = printed(driver, pages)
                before, pages = pages, page_numbers(pdf)
                if before == pages:
                    break
            else:
                raise RuntimeError("the page numbers did not settle")
        finally:
            driver.quit()
    titles = BeautifulSoup(source.read_text(encoding="utf-8"), "html.parser")
    titles = [" ".join(h.get_text().split()) for h in titles.find_all(re.compile("h[1-6]"))]
    pdf = with_whole_titles(pdf, titles)
    write_atomically(result, pdf)
    print(f"The PDF is at {result} ({max(pages.values())} pages or more)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
