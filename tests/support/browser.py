"""Headless Chromium for the tests of pages, and the built book as a browser finds it."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from study import ROOT

HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html"))
"""The built book; BOOK_HTML names another build of it."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,1000",
)


@contextmanager
def chromium(*flags: str, logs: tuple[str, ...] = ("browser",)) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own, gone when the context ends."""
    with tempfile.TemporaryDirectory() as profile:
        options = Options()
        for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        found = [shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome")]
        options.binary_location = next(filter(None, found), "")
        options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            driver.set_script_timeout(60)
            yield driver
        finally:
            driver.quit()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder is served on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def set_viewport(driver: webdriver.Chrome, width: int, height: int, ratio: float = 1) -> None:
    """Give the page a viewport of this many CSS pixels, each of ``ratio`` device pixels."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
