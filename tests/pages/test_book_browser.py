"""The built book in a browser that reaches nothing but this machine: every page, light and dark.

Each page is opened from the disk, as a reader of a downloaded book opens it. The tests of one page
share one visit; pytest-xdist keeps them on one worker, which has one browser.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browsing import HANGING, HTML, ROOT, chromium, served, set_viewport, settle
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

PAGES = sorted(p for p in HTML.rglob("*.html") if "_static" not in p.relative_to(HTML).parts)
NAMES = [str(path.relative_to(HTML).with_suffix("")) for path in PAGES]
AXE = ROOT / "tools" / "pagecheck" / "node_modules" / "axe-core" / "axe.min.js"
GRAVE = ("serious", "critical")
DESKTOP, PHONE = (1280, 1000), (375, 812)
LARGEST_PAGE = 3_000_000
"""Bytes of a page with all that it loads, as stored."""
LARGEST_HEAD = 1_000_000
"""Bytes of the styles and scripts for which a page waits before it shows anything."""
# A host name leads nowhere: what is not on this machine cannot be loaded.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"

pytestmark = [pytest.mark.book, pytest.mark.browser]
every_page = pytest.mark.parametrize(
    "page",
    [
        pytest.param(path, id=name, marks=pytest.mark.xdist_group(name))
        for path, name in zip(PAGES, NAMES, strict=True)
    ],
)


@dataclass
class Visit:
    """What one visit of a page has shown."""

    requests: list[str]
    errors: list[str]
    weight: int
    head: int
    widest: dict[str, int]
    findings: dict[str, list[str]] = field(default_factory=dict)


@pytest.fixture(scope="session")
def driver():
    with chromium(OFFLINE, logs=("browser", "performance")) as browser:
        # Moving colors would be measured on their way.
        still = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", still)
        yield browser


@pytest.fixture(scope="session")
def site():
    with served(HTML) as address:
        yield address


@pytest.fixture(scope="session")
def visits(driver):
    return Visits(driver)


class Visits(dict):
    """The visit of each page, made when it is first asked for."""

    def __init__(self, driver):
        super().__init__()
        self.driver = driver

    def __missing__(self, page: Path) -> Visit:
        self[page] = visit(self.driver, page)
        return self[page]


def visit(driver, page: Path) -> Visit:
    """Open a page, note what it loads and complains of, and examine it in both themes."""
    set_viewport(driver, *DESKTOP)
    forget_logs(driver)
    driver.get(page.as_uri())
    settle(driver)
    requests = requested(driver)
    images = driver.execute_script("return Array.from(document.images, (image) => image.src)")
    weight, head = stored_size([*requests, *images]), stored_size(waited_for(driver))
    errors = [entry["message"] for entry in driver.get_log("browser") if is_error(entry)]

    unfold(driver)
    widest = {}
    for name, size in (("phone", PHONE), ("desktop", DESKTOP)):
        set_viewport(driver, *size)
        widest[name] = driver.execute_script("return document.documentElement.scrollWidth")
    found = Visit(requests, errors, weight, head, widest)
    thin_out(driver)
    for theme in ("light", "dark"):
        found.findings[theme] = axe(driver, theme)
    found.errors += [entry["message"] for entry in driver.get_log("browser") if is_error(entry)]
    found.requests += requested(driver)
    return found


def forget_logs(driver) -> None:
    """Leave the last page, and read the logs so that only what follows is in them."""
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)


def unfold(driver) -> None:
    """Open every solution and every cell of code."""
    driver.execute_script(
        """
        for (const folded of document.querySelectorAll("details")) folded.open = true;
        for (const hidden of document.querySelectorAll(".toggle-hidden"))
            hidden.classList.remove("toggle-hidden");
        """
    )


def thin_out(driver) -> None:
    """Keep few words of each kind in code: a color goes with the kind, and axe looks at each word.

    On pages of source this leaves a hundredth of them, and takes a minute off.
    """
    driver.execute_script(
        """
        const seen = new Map();
        for (const word of document.querySelectorAll(".highlight pre span[class]:not([id])")) {
            if (word.querySelector("[id], a")) continue;
            const kind = `${word.parentElement.className} ${word.className}`;
            seen.set(kind, (seen.get(kind) || 0) + 1);
            if (seen.get(kind) > 3) word.remove();
        }
        """
    )


def requested(driver) -> list[str]:
    """The addresses from which pages have asked for something since the log was last read."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    # The browser's own empty tab.
    return [url for url in urls if urlsplit(url).scheme not in ("chrome", "about")]


def waited_for(driver) -> list[str]:
    """The addresses of what the open page had to load and run before it could show anything."""
    return driver.execute_script(
        """
        const loaded = [...document.head.querySelectorAll("link[rel=stylesheet], script[src]")];
        return loaded.filter((e) => !e.async && !e.defer && !e.disabled && e.type !== "module")
            .map((e) => e.src || e.href);
        """
    )


def stored_size(urls: list[str]) -> int:
    """The bytes of those files that lie on the disk, each counted once."""
    files = {urlsplit(url).path for url in urls if url.startswith("file:")}
    return sum(Path(unquote(path)).stat().st_size for path in files)


def is_local(url: str) -> bool:
    return urlsplit(url).scheme in ("file", "data", "blob") or urlsplit(url).hostname == "127.0.0.1"


def is_error(entry: dict) -> bool:
    return entry["level"] == "SEVERE"


def axe(driver, theme: str) -> list[str]:
    """What axe-core finds serious or critical on the open page in a theme, one line a finding."""
    results = driver.execute_async_script(
        AXE.read_text(encoding="utf-8")
        + """
        const [theme, done] = arguments;
        document.documentElement.dataset.mode = document.documentElement.dataset.theme = theme;
        requestAnimationFrame(() => requestAnimationFrame(() => axe
            .run(document, {preload: false, resultTypes: ["violations"]})
            .then((found) => done(found.violations), (error) => done(String(error)))));
        """,
        theme,
    )
    assert isinstance(results, list), results
    return [
        f"{result['id']}: {node['html'][:150]}: {node['failureSummary']}"
        for result in results
        if result["impact"] in GRAVE
        for node in result["nodes"]
    ]


def test_there_are_pages_and_checkers():
    assert len(PAGES) > 20, "build the book first: make book"
    assert AXE.is_file(), "install what the checks need: npm ci --prefix tools/pagecheck"


@every_page
def test_page_asks_for_nothing_from_elsewhere(page, visits):
    assert [url for url in visits[page].requests if not is_local(url)] == []


@every_page
def test_page_logs_no_error(page, visits):
    assert visits[page].errors == []


@every_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(page, theme, visits):
    findings = visits[page].findings[theme]
    assert not findings, "\n".join(findings)


@every_page
def test_page_is_light(page, visits):
    assert visits[page].weight < LARGEST_PAGE


@every_page
def test_page_does_not_scroll_sideways(page, visits):
    assert visits[page].widest == {"phone": PHONE[0], "desktop": DESKTOP[0]}


@every_page
def test_little_stands_before_the_first_text_of_a_page(page, visits):
    assert 0 < visits[page].head < LARGEST_HEAD


FAULTY = """<!DOCTYPE html><html lang="en"><head><title>Faulty</title><script src="a.js"></script>
<link rel="stylesheet" href="a.css"><script defer src="b.js"></script></head><body><main><h1>A</h1>
<p style="color: #999; background: #fff">Grey text.</p><img src="x.png"><img alt="" src="x.png">
<script src="https://cdn.example/x.js"></script><script>undefinedFunction();</script>
<div style="width: 2000px">wide</div></main></body></html>"""


CLEARANCE = """return [...document.querySelectorAll(
    ".bd-content div.math, .bd-content mjx-container[display='true']")].map((box) => {
    const {top, bottom} = box.getBoundingClientRect();
    const signs = [...box.querySelectorAll("mjx-c")].map((sign) => sign.getBoundingClientRect());
    return Math.min(...signs.map((sign) => Math.min(sign.top - top, bottom - sign.bottom)));
});"""


@pytest.mark.xdist_group("chapters/quadratic_threshold")
def test_formulas_have_room_for_the_strokes_at_their_edges(driver):
    # A box that scrolls cuts what is drawn beyond it; a stroke may fall on the next pixel.
    driver.get((HTML / "chapters" / "quadratic_threshold.html").as_uri())
    settle(driver)
    found = driver.execute_script(CLEARANCE)
    assert found
    assert min(found) >= 1


def test_faults_would_be_found(driver, tmp_path):
    page, picture = tmp_path / "faulty.html", tmp_path / "x.png"
    page.write_text(FAULTY, encoding="utf-8")
    picture.write_bytes(b"0" * 1000)
    for name, size in (("a.js", 100), ("a.css", 200), ("b.js", 300)):
        (tmp_path / name).write_text(" " * size)
    found = visit(driver, page)
    assert [url for url in found.requests if not is_local(url)] == ["https://cdn.example/x.js"]
    assert any("undefinedFunction" in error for error in found.errors)
    assert any("cdn.example" in error for error in found.errors)
    kinds = {line.split(":")[0] for line in found.findings["light"]}
    assert kinds == {"color-contrast", "image-alt"}
    assert found.weight == len(FAULTY.encode()) + 1000 + 600, "each file counts once"
    assert found.head == 300, "what is deferred is not waited for"
    assert found.widest["phone"] > PHONE[0]


# Search

SEARCHES = {
    "rotational polarity": "chapters/polarity",
    "reflection law": "chapters/reflection_law",
    "progressive sharpening": "chapters/edge_of_stability",
    "edge of stability": "chapters/edge_of_stability",
    "goldilocks": "chapters/goldilocks",
    "momentum": "chapters/other_thresholds",
    "catapult": "chapters/beyond_quadratic",
    "bifurcation": "chapters/beyond_quadratic",
    "power iteration": "chapters/measuring_curvature",
    "lanczos": "chapters/measuring_curvature",
    "hutchinson": "chapters/glossary",
    "label noise": "chapters/noise",
    "minibatch": "chapters/sgd_noise",
    "restoring": "chapters/adam",
    "balanced": "chapters/scalar_networks",
    "imbalance": "chapters/scalar_networks",
    "instability budget": "chapters/flatness_bias",
    "episode": "chapters/episodes_and_rotation",
    "rescaling": "chapters/sharpness_limits",
    "residual": "chapters/glossary",
}
"""Words that a reader would type, and a page that must be among the first results."""
FIRST_RESULTS = 8


def search(driver, address: str, words: str) -> list[str]:
    """The pages that the book's search finds, best first, once it says that it has finished."""
    driver.get(f"{address}/search.html?q={words.replace(' ', '+')}")
    finished = """
        const summary = document.querySelector("#search-results .search-summary");
        return /finished|did not match/.test(summary?.textContent ?? "");
    """
    WebDriverWait(driver, HANGING).until(lambda d: d.execute_script(finished))
    links = driver.find_elements(By.CSS_SELECTOR, "#search-results ul.search > li > a")
    return [urlsplit(link.get_attribute("href")).path for link in links]


@pytest.mark.xdist_group("search")
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_terms(scheme, driver, site):
    assert len(SEARCHES) == 20
    root = "" if scheme == "http" else str(HTML)
    address = site if scheme == "http" else HTML.as_uri()
    forget_logs(driver)
    missed = defaultdict(list)
    for words, page in SEARCHES.items():
        results = search(driver, address, words)[:FIRST_RESULTS]
        if f"{root}/{page}.html" not in map(unquote, results):
            missed[words] = [Path(path).stem for path in results]
    assert not missed
    assert [e["message"] for e in driver.get_log("browser") if is_error(e)] == []
    assert search(driver, address, "xylophone") == []


@pytest.mark.xdist_group("search")
def test_a_result_of_the_search_opens_its_page(driver, site):
    search(driver, site, "reflection law")
    link = driver.find_element(By.CSS_SELECTOR, "#search-results li > a[href*='reflection_law']")
    link.click()
    WebDriverWait(driver, HANGING).until(lambda d: "/reflection_law.html" in d.current_url)
    assert driver.find_element(By.TAG_NAME, "article").text
