"""The copies of the built book's chapters that ``make lab`` opens: nothing of the book is lost."""

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from browsing import HANGING, HTML, chromium
from bs4 import BeautifulSoup
from selenium.webdriver.support.ui import WebDriverWait

from study import ROOT
from study.figures import glued_numbers
from study.pages import copies as written
from study.pages import notebooks

JUPYTER = Path(sys.executable).with_name("jupyter")
EXECUTED, SHOWN = ROOT / "_book" / "chapters", HTML.parent / "shown" / "chapters"
CHAPTER = "polarity"
ROLE = re.compile(r"\{[\w:]+\}`")


@pytest.fixture(scope="module")
def copies():
    made = written.make(EXECUTED, SHOWN)
    return {name: notebooks.parse(text)["cells"] for name, text in made.items()}


def texts(cells):
    return {c["id"]: "".join(c["source"]) for c in cells if c["cell_type"] == "markdown"}


@pytest.mark.book
def test_every_chapter_has_a_copy_in_which_only_references_and_numbers_differ(copies):
    """Between the references, which become something, the text of each cell is the chapter's."""
    assert set(copies) == {p.stem for p in (ROOT / "chapters").glob("*.ipynb")}
    for name, cells in copies.items():
        made = {c["id"]: c for c in cells}
        original = notebooks.cells(EXECUTED / f"{name}.ipynb")
        extra = set(made) - {c["id"] for c in original}
        assert extra == {written.caption_id(c) for c in original if "name" in notebooks.figure(c)}
        for cell in original:
            source, copy = "".join(cell["source"]), "".join(made[cell["id"]]["source"])
            if cell["cell_type"] == "code":
                assert copy == source
            elif cell["id"] != notebooks.TEXT_ID:
                assert not [m for m in written.PART.finditer(copy) if m["role"]]
                assert without_numbers(copy) == without_references(source, copy), cell["id"]


def without_numbers(copy):
    copy = re.sub(r"^[ \t]*:enumerat(or|ed): .*\n", "", copy + "\n", flags=re.M)[:-1]
    return re.sub(r"^(#+ )[\d.]+\. ", r"\1", copy, flags=re.M)


def without_references(source, copy):
    """The source with its equations as directives, and each role as the copy has it there."""
    source = re.sub(
        r"^([ \t]*)\$\$\n(.*?)\n[ \t]*\$\$(?: \(([\w-]+)\))?$",
        lambda m: (
            f"{m[1]}~~~{{math}}\n"
            + (f"{m[1]}:label: {m[3]}\n" if m[3] else "")
            + f"{m[2]}\n{m[1]}~~~"
        ),
        source,
        flags=re.M | re.S,
    )
    between = re.split(r"\{[\w:]+\}`[^`]+`", source)
    pattern = "(.+?)".join(map(re.escape, between))
    found = re.fullmatch(pattern, without_numbers(copy), re.S)
    assert found, source
    return "".join(a + b for a, b in zip(between, [*found.groups(), ""], strict=True))


@pytest.mark.book
def test_every_link_of_a_copy_leads_somewhere(copies):
    pages, seen = {}, 0
    for cells in copies.values():
        own = "\n".join(texts(cells).values())
        for address in re.findall(
            r"\]\(<?([^()>]+(?:\([^()]*\)[^()>]*)*)>?\)|href=\"([^\"]+)\"", own
        ):
            address = "".join(address)
            path, _, anchor = address.partition("#")
            seen += 1
            if address.startswith("https://"):
                continue
            if path.startswith(written.PAGES):
                page = HTML / path.removeprefix(written.PAGES + "/")
                ids = pages.get(page)
                if ids is None:
                    tree = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
                    ids = pages[page] = {tag["id"] for tag in tree.find_all(id=True)}
                assert not anchor or anchor in ids, address
            elif path:
                target = copies[path.removesuffix(".ipynb")]
                assert not anchor or anchor.removeprefix("cell-id=") in {c["id"] for c in target}
            else:
                stated = rf"^[ \t]*:label: {re.escape(anchor)}$|^\({re.escape(anchor)}\)=$"
                assert len(re.findall(stated, own, re.M)) == 1, address
    assert seen > 400


@pytest.mark.book
def test_a_number_in_line_begins_no_list(copies):
    item = re.compile(r"^[ \t]*(?:\d{1,9}[.)]|[-+*])[ \t]", re.M)
    for name, cells in copies.items():
        original = notebooks.cells(EXECUTED / f"{name}.ipynb")
        made = texts(cells)
        for identity, source in texts(original).items():
            if identity != notebooks.TEXT_ID:
                assert len(item.findall(made[identity])) == len(item.findall(source)), identity


def address_of(running, records, token):
    """Where a JupyterLab answers that has looked for a free port by itself, once it does."""
    limit = time.monotonic() + HANGING
    while time.monotonic() < limit:
        if running.poll() is not None:
            raise ChildProcessError("JupyterLab has ended")
        # Half written, the record of the server is no JSON; until the server listens it refuses.
        with contextlib.suppress(ValueError, OSError):
            (record,) = (json.loads(p.read_text()) for p in records.glob("jpserver-*.json"))
            urllib.request.urlopen(f"{record['url']}api/status?token={token}").close()
            return record["url"].rstrip("/")
        time.sleep(0.2)
    raise TimeoutError("JupyterLab does not answer")


@pytest.fixture
def server(tmp_path):
    """The address of a JupyterLab on fresh copies, with settings of its own."""
    own = {
        f"{name}_DIR": str(tmp_path / name)
        for name in ("JUPYTER_CONFIG", "JUPYTER_RUNTIME", "JUPYTER_DATA", "JUPYTERLAB_SETTINGS",
                     "JUPYTERLAB_WORKSPACES", "IPYTHON")
    }  # fmt: skip
    environment = {**os.environ, **own}
    folder = tmp_path / "copies"
    make = (
        "import lab, sys; from pathlib import Path; executed, shown, to = map(Path, sys.argv[1:]); "
        "lab.refresh(to, lab.copies.make(executed, shown))"
    )
    arguments = [sys.executable, "-c", make, EXECUTED, SHOWN, folder]
    subprocess.run(arguments, cwd=ROOT / "tools", env=environment, check=True)
    token = secrets.token_hex(8)
    command = [
        JUPYTER, "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--IdentityProvider.token={token}", f"--notebook-dir={folder}",
        f"--ServerApp.extra_static_paths={HTML}",
    ]  # fmt: skip
    log = (tmp_path / "lab.log").open("w")
    running = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        records = Path(own["JUPYTER_RUNTIME_DIR"])
        yield f"{address_of(running, records, token)}/lab/tree/{CHAPTER}.ipynb?token={token}"
    except ChildProcessError as error:
        error.add_note((tmp_path / "lab.log").read_text())
        raise
    finally:
        running.terminate()
        running.wait(HANGING)
        log.close()


@pytest.fixture
def driver():
    with chromium() as driver:
        yield driver


def plain(text):
    return " ".join(text.replace("\xa0", " ").split())


@pytest.mark.book
@pytest.mark.browser
def test_jupyterlab_shows_a_copy_as_the_book_shows_its_page(server, driver, copies):
    tree = BeautifulSoup((HTML / "chapters" / f"{CHAPTER}.html").read_text("utf-8"), "html.parser")
    book = tree.select_one("article.bd-article")
    count = len(texts(copies[CHAPTER]))
    driver.get(server)
    shown = "return document.querySelectorAll('.jp-MarkdownCell .myst').length"
    WebDriverWait(driver, HANGING).until(lambda _: driver.execute_script(shown) == count)
    linked = "return [...document.querySelectorAll('.myst a[href^=\"#\"]')].length"
    WebDriverWait(driver, HANGING).until(lambda _: driver.execute_script(linked))
    read = """
        const all = (s) => [...document.querySelectorAll(s)].map((e) => e.textContent);
        return {
            text: all(".myst").join(" "), boxes: all(".myst aside, .myst details"),
            links: all(".myst p a, .myst li a"), errors: all(".katex-error"),
            equations: all(".myst a[title='Link to this Equation']"),
            formulas: all(".myst .katex").length,
            pictures: all(".jp-RenderedSVG").length,
        };
    """
    page = driver.execute_script(read)
    boxes = [plain(box) for box in page["boxes"]]

    # Statements and exercises have the book's titles, with its numbers, in its order.
    titles = [plain(t.get_text()) for t in book.select("div.proof > p.admonition-title")]
    titles += [plain(t.get_text()) for t in book.select("div.exercise > p.admonition-title")]
    assert any(t.startswith("Theorem ") for t in titles)
    assert not [box[:20] for box in boxes if re.match(r"Proof \d", box)], (
        "the book counts no proofs"
    )
    assert any(box.startswith("Proof") for box in boxes)
    numbered = [t for t in titles if re.match(r"(Theorem|Proposition|Exercise) \d", t)]
    for title in numbered:
        start = re.match(r"\w+ [\d.]+ \([^$\\]*", title)[0].split("\\")[0]
        assert any(box.startswith(start) for box in boxes), title
    equations = [t.get_text().rstrip("#").strip() for t in book.select("span.eqno")]
    assert [e.strip() for e in page["equations"]] == [
        re.match(r"\([\d.]+\)", e)[0] for e in equations
    ]

    # References read as on the page: to statements here and elsewhere, to chapters, citations.
    links = {plain(a) for a in page["links"]}
    for selector in ("a.reference.internal[href*='.html#thm-']", "a[href^='#equation-']"):
        wanted = {plain(a.get_text()) for a in book.select(f"p {selector}")}
        assert wanted, selector
        assert wanted <= links
    text = plain(page["text"])
    assert "Wang and Roberts [2026]" in text
    assert "Wang and Roberts [2026]" in plain(book.get_text())
    number = glued_numbers(EXECUTED)[CHAPTER]["d3-high"].text
    assert f"{number} degrees, and it ends at" in text
    assert f"{number} degrees, and it ends at" in plain(book.get_text())
    captions = [plain(t.get_text()).strip() for t in book.select("figcaption .caption-number")]
    assert captions
    assert all(f"{caption}." in text for caption in captions)

    assert page["pictures"] == len(captions)
    assert page["formulas"] > 100
    assert page["errors"] == []
    assert not [box for box in boxes if ROLE.search(box) or re.search(r"\{prf:|:::|```|~~~", box)]
    assert any(box.startswith("Solution to Exercise") for box in boxes)
    assert any(box.startswith("What you will learn") for box in boxes)
