"""Mend the markup that the theme and other extensions give each page.

What they write is read well by most browsers, but parts of it are not valid HTML, give a screen
reader two names for one button or none, or load scripts that nothing needs. Each rule below says
what it mends; tests/pages/test_markup.py has a case for each, and the tests of the built book
check the result as a whole.
"""

import re
from pathlib import Path

from bs4 import BeautifulSoup, NavigableString

from flatminima._files import write_atomically

FIRST_PAGE = "chapters/intro.html"
INDEX = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={FIRST_PAGE}">
<title>Unstable by Design</title></head>
<body><main><h1>Unstable by Design</h1>
<p><a href="{FIRST_PAGE}">To the first page</a></p></main></body>
</html>
"""
NAMES = {
    "input.sidebar-toggle": "Toggle the sidebar",
    "nav.bd-toc-nav": "On this page",
    ".onlyprint nav": "Contents, printed",
}


def lighten(page: BeautifulSoup) -> None:
    """Drop what is loaded for nothing.

    Icons come from a font by style sheet; the script that draws the same icons again is 1.5 MB. A
    browser refuses a font that a page from the disk asks for in advance, and says so in an error.
    """
    for tag in page.select('script[src*="fontawesome"], link[rel="preload"]'):
        tag.decompose()


def give_unique_ids(page: BeautifulSoup) -> None:
    """Leave each id on one element: those that proofs and exercises share go, nothing uses them."""
    for tag in page.select("section#proof-content, section#exercise-content, #solution-content"):
        del tag["id"]
        tag.name = "div"
    for tag in page.select("div.proof#proof"):
        del tag["id"]
        tag["class"] = [*tag["class"], "proof-body"]
    # The page of results has a search field in its text and another in the dialog.
    for tag in page.select(".search-button__search-container input#search-input"):
        tag["id"] = "search-dialog-input"


def mend_elements(page: BeautifulSoup) -> None:
    """Use the elements that HTML has for the purpose, where it allows them."""
    for summary in page.select("details > summary"):
        # Its text names it; "Toggle hidden content" would hide what "Show the code" says.
        del summary["aria-label"]
        for paragraph in summary.find_all("p", recursive=False):
            paragraph.name = "span"
    for caption in page.select('nav p.caption[role="heading"]'):
        caption.name = "h2"
        del caption["role"], caption["aria-level"]
    for button in page.find_all("button", type=False):
        button["type"] = "button"
    for link in page.select(".dropdown-download-buttons a[href]"):
        # A browser would show the text of a notebook rather than save it.
        link["download"] = ""
        del link["target"]
    for listed in page.select('div.citation-list[role="list"]'):
        listed.name = "ul"
        del listed["role"]
        for entry in listed.find_all("div", class_="citation", recursive=False):
            entry.name = "li"
            del entry["role"]
    # The list of a package's modules, which viewcode puts beside the package instead of under it.
    for inner in page.select("ul > li + ul"):
        inner.find_previous_sibling("li").append(inner)
    for heading in page.select("thead th"):
        if heading.get_text(strip=True):
            heading["scope"] = "col"
        else:
            heading.name = "td"
    for block in page.select("pre div.viewcode-block"):
        block.name = "span"
    for empty in page.select(".onlyprint h1"):
        if not empty.get_text(strip=True):
            empty.decompose()


def name_elements(page: BeautifulSoup) -> None:
    """Give a name to what has none that a screen reader could say, and one name to the rest."""
    for button in page.find_all("button", title=True):
        if not button.get_text(strip=True) and not button.get("aria-label"):
            button["aria-label"] = button["title"]
    for logo in page.select("div.sidebar-primary-item > a.navbar-brand"):
        logo.parent.name = "nav"
        logo.parent["aria-label"] = "Start page"
    for toggle in page.select("summary > span.toctree-toggle"):
        above = toggle.find_parent("li").a.get_text(strip=True)
        toggle.parent["aria-label"] = f"Pages under {above}"
    for selector, name in NAMES.items():
        for tag in page.select(selector):
            tag["aria-label"] = name
    for number, footer in enumerate(page.select("main footer, body > footer")):
        if number and not footer.get_text(strip=True):
            footer.decompose()
    for icon in page.select("form.bd-search > i"):
        # A form needs a button that sends it; the icon becomes one.
        label = {"class": "search-submit", "type": "submit", "aria-label": "Search"}
        icon.wrap(page.new_tag("button", attrs=label))
    for script in page.find_all("script", src=False):
        # This one writes a button that says "Search Ctrl+K" and would be called just "Search".
        if script.string and "search-button__default-text" in script.string:
            script.string.replace_with(script.string.replace(' aria-label="Search"', ""))


GRADE = re.compile(r" \((★+ \w+)\)(?=\)\s*$)")


def set_titles_apart(page: BeautifulSoup) -> None:
    """Mark an exercise's grade within its title, and the word "Proof" before its proof.

    The text of both stays as it is; the style sheet leaves out the grade's brackets.
    """
    for title in page.select("div.exercise > .admonition-title"):
        last = title.contents[-1]
        if isinstance(last, NavigableString) and (grade := GRADE.search(last)):
            before, after = last[: grade.start()], last[grade.end() :]
            mark = page.new_tag("span", attrs={"class": "exercise-grade"})
            opening, closing = (page.new_tag("span", attrs={"class": "bracket"}) for _ in "()")
            opening.string, closing.string = " (", ")"
            mark.extend([opening, grade[1], closing])
            last.replace_with(before)
            title.extend([mark, after])
    for first in page.select("div.proof-body > p:first-child"):
        word = first.contents[0] if first.contents else None
        if isinstance(word, NavigableString) and word.startswith("Proof. "):
            name = page.new_tag("span", attrs={"class": "proof-name"})
            name.string = "Proof."
            word.replace_with(word.removeprefix("Proof."))
            first.insert(0, name)


def fold_provenance(page: BeautifulSoup) -> None:
    """Fold what a cell prints of how its stored runs were made: true, and not the story."""
    for output in page.select("div.cell_output > div.output"):
        if "Made by `make results" in output.get_text():
            folded = output.wrap(page.new_tag("details", attrs={"class": "provenance"}))
            summary = page.new_tag("summary")
            summary.string = "How these runs were made"
            folded.insert(0, summary)


INTERVAL = re.compile(r"\[[^\[\]]+\]")


def hold_intervals(page: BeautifulSoup) -> None:
    """Let a line break stand before the interval of a computed number, and not within it."""
    for number in page.select("span.pasted-text"):
        if number.string and (found := INTERVAL.search(number.string)):
            before, after = number.string[: found.start()], number.string[found.end() :]
            held = page.new_tag("span", attrs={"class": "interval"})
            held.string = found[0]
            number.string.replace_with(before)
            number.extend([held, after] if after else [held])


WITHIN = re.compile(r" (±) |(?<=\d) (×) (?=10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹])|(?<=\(\d\.\d\d) (to) (?=\d\.\d\d\))")


def hold_numbers(page: BeautifulSoup) -> None:
    """Let no line break part a number from its error, power of ten or unit, or split a range."""
    for text in page.find_all(string=re.compile(r"[±×%]|\d to \d")):
        if type(text) is NavigableString and not text.find_parent(["pre", "code", "title"]):
            held = WITHIN.sub(lambda m: f"\xa0{m[m.lastindex]}\xa0", text)
            text.replace_with(held.replace(" %", "\xa0%"))
    for number in page.select("span.math + span.pasted-text"):
        gap = number.previous_sibling
        if gap == " " and gap.previous_sibling.get_text().endswith(r"=\)"):
            gap.replace_with("\xa0")


SHORT = 20
"""Characters of code that stay on one line: a phone has room for twice as many."""


def hold_short_code(page: BeautifulSoup) -> None:
    """Keep short code in a line of text, such as a command of two words, from breaking."""
    for code in page.select("code.literal"):
        if len(code.get_text()) <= SHORT and not code.find_parent("table"):
            code["class"] = [*code["class"], "unbroken"]


RULES = (
    lighten,
    give_unique_ids,
    mend_elements,
    name_elements,
    set_titles_apart,
    fold_provenance,
    hold_intervals,
    hold_numbers,
    hold_short_code,
)


def mend(text: str) -> str:
    """Return a page with its markup mended; what is no page comes back as it is."""
    if text.lstrip()[:9].lower() != "<!doctype":
        return text
    page = BeautifulSoup(text, "html.parser")
    for rule in RULES:
        rule(page)
    return str(page)


def mend_as_written(app):
    """Let every page pass through `mend` between its template and its file."""
    if app.builder.format != "html":
        return
    templates = app.builder.templates
    render = templates.render
    templates.render = lambda template, context: mend(render(template, context))


BACK = re.compile(r'(class="viewcode-back" href=")[^"#]*#([^"]*)')


def lead_back(app, pagename, templatename, context, doctree):
    """Lead from a module's source to its names: in the reference some stand under its package."""
    package, _, own = pagename.removeprefix("_modules/").replace("/", ".").rpartition(".")
    known = app.env.get_domain("py").objects

    def mended(link: re.Match) -> str:
        inner = link[2].replace(f"{package}.", f"{package}.{own}.", 1)
        entry = known.get(link[2]) or known.get(inner)
        uri = app.builder.get_relative_uri(pagename, entry.docname) if entry else ""
        return f"{link[1]}{uri}#{entry.node_id if entry else ''}"

    context["body"] = BACK.sub(mended, context.get("body", ""))


def write_index(app, exception):
    """Lead from the folder of the book to its first page."""
    if not exception and app.builder.format == "html":
        write_atomically(Path(app.outdir, "index.html"), INDEX.encode())


# Without its menu and its speech engine, MathJax is half as large.
MATHJAX = ["input/tex", "output/chtml", "a11y/assistive-mml"]


def use_small_mathjax(app, config):
    """Load the parts of MathJax that pages use, not the bundle that sphinx-mathjax-offline sets."""
    config.mathjax_path = "mathjax/startup.js"
    config.mathjax3_config["loader"] = {"load": MATHJAX}


def register(app):
    """Register the rules, the small MathJax and the page that leads to the first one."""
    app.connect("config-inited", use_small_mathjax)
    app.connect("builder-inited", mend_as_written)
    app.connect("html-page-context", lead_back)
    app.connect("build-finished", write_index)
