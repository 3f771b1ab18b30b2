"""A browser for the tests of pages, and the built book as it finds it."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import browser
from selenium.webdriver.chromium.webdriver import ChromiumDriver

from study import ROOT

HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html"))
"""The built book; BOOK_HTML names another build of it."""

HANGING = 600
"""Seconds after which something will never happen, on a machine however busy."""

FLAGS = ("--hide-scrollbars", "--window-size=1280,1000")


@contextmanager
def chromium(*flags: str, logs: tuple[str, ...] = ("browser",)) -> Iterator[ChromiumDriver]:
    """A browser with a profile of its own, gone when the context ends."""
    with tempfile.TemporaryDirectory() as profile:
        own = f"--user-data-dir={profile}"
        driver = browser.found().start(*FLAGS, *flags, own, logs=logs)
        try:
            driver.set_script_timeout(HANGING)
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


def set_viewport(driver: ChromiumDriver, width: int, height: int, ratio: float = 1) -> None:
    """Give the page a viewport of this many CSS pixels, each of ``ratio`` device pixels."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def settle(driver: ChromiumDriver) -> None:
    """Wait until the formulas are set, which moves what stands below, and the page is drawn."""
    driver.execute_async_script(
        """
        const done = arguments[0];
        const drawn = () => requestAnimationFrame(() => requestAnimationFrame(() => done()));
        const formulas = window.MathJax && MathJax.startup && MathJax.startup.promise;
        Promise.resolve(formulas).then(drawn, drawn);
        """
    )
