"""``make lab``: JupyterLab shows the chapters' directives as the book does."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from browser import chromium
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parent.parent
JUPYTER = Path(sys.executable).with_name("jupyter")
CHAPTER = "quadratic_threshold.ipynb"


def test_the_extension_is_installed_and_fits_this_jupyterlab():
    command = [JUPYTER, "labextension", "list"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    plain = re.sub(r"\x1b\[\d*m", "", result.stdout + result.stderr)
    assert re.search(r"jupyterlab-myst v\S+ +enabled +OK", plain), plain


def test_make_lab_opens_the_chapters():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^lab: .*\n\t\$\(BIN\)/jupyter lab .*--notebook-dir=chapters", makefile, re.M)


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab on a copy of one chapter, with settings of its own."""
    shutil.copytree(ROOT / "chapters", tmp_path / "chapters", ignore=shutil.ignore_patterns("_*"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    own = {
        f"{name}_DIR": str(tmp_path / name)
        for name in ("JUPYTER_CONFIG", "JUPYTER_RUNTIME", "JUPYTER_DATA", "JUPYTERLAB_SETTINGS",
                     "JUPYTERLAB_WORKSPACES", "IPYTHON")
    }  # fmt: skip
    command = [
        JUPYTER, "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}", f"--notebook-dir={tmp_path / 'chapters'}",
    ]  # fmt: skip
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(
        command, env={**os.environ, **own}, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        base = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "lab.log").read_text()
            try:
                urllib.request.urlopen(f"{base}/api/status?token={token}").close()
                break
            except urllib.error.URLError:
                time.sleep(0.2)
        yield f"{base}/lab/tree/{CHAPTER}?token={token}"
    finally:
        server.terminate()
        server.wait(60)
        log.close()


@pytest.fixture
def driver():
    with chromium() as driver:
        yield driver


@pytest.mark.browser
def test_theorems_proofs_exercises_and_references_are_shown_as_such(lab, driver):
    cells = json.loads((ROOT / "chapters" / CHAPTER).read_text(encoding="utf-8"))["cells"]
    texts = sum(cell["cell_type"] == "markdown" for cell in cells)
    driver.get(lab)

    def shown(script):
        return driver.execute_script(f"return [...document.querySelectorAll({script!r})]")

    # Seconds on a free machine; a busy one may take minutes.
    wait = WebDriverWait(driver, 400)
    wait.until(lambda _: len(shown(".jp-MarkdownCell .myst")) == texts)
    # References are resolved once all cells are there.
    wait.until(lambda _: "Theorem 1" in " ".join(a.text for a in shown(".myst p a")))

    read = """
        const text = (e) => e.textContent.replace(/\\s+/g, " ").trim();
        const all = (s) => [...document.querySelectorAll(s)].map(text);
        return {
            boxes: all(".myst aside, .myst details"), links: all(".myst p a, .myst li a"),
            errors: all(".katex-error"), formulas: all(".myst .katex").length,
        };
    """
    page = driver.execute_script(read)
    boxes = page["boxes"]
    assert any(b.startswith("Theorem 1 (Stability of gradient descent") for b in boxes)
    assert any(b.startswith("Proof") for b in boxes)
    assert any(b.startswith("Exercise 1 (Reading the sharpness") for b in boxes)
    assert any(b.startswith("Solution to Exercise 1") for b in boxes)
    assert any(b.startswith("What you will learn") for b in boxes)
    assert "Theorem 1" in page["links"], "a reference to a statement"
    assert any(re.fullmatch(r"\(\d+\)", link) for link in page["links"]), "one to an equation"
    assert page["formulas"] > 100
    assert page["errors"] == []
    assert not [text for text in boxes if re.search(r"\{prf:|:::|```", text)]
