"""Find the browser that the tests of pages and the PDF use, or get one.

What is on the PATH is used, Chromium, Chrome or Edge with a driver of the same version. Else apt
installs Chromium and its driver, on Debian or Ubuntu for root; else Selenium fetches a browser and
a driver of its own. Where none of this can be, the exit status is 1 and the last line of what is
said is the line to type.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.selenium_manager import SeleniumManager

from flatminima._files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
FETCHED = ROOT / "_build" / "browser.json"
"""Where the browser that Selenium has fetched is noted, since it is not on the PATH."""

CHROME = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
EDGE = ("microsoft-edge", "microsoft-edge-stable", "msedge")
DRIVERS = {"chromedriver": CHROME, "msedgedriver": EDGE}
"""Name of a driver -> the names of the browsers that it steers, the first choice first."""

LINES = {
    "apt-get": "sudo apt-get install chromium chromium-driver",
    "dnf": "sudo dnf install chromium chromedriver",
    "pacman": "sudo pacman -S chromium",
    "brew": "brew install --cask google-chrome chromedriver",
    "winget": "winget install Google.Chrome",
}
"""Program that installs others -> the line to type where it is there."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Browser:
    """A browser and its driver, each by the path of its program."""

    program: str
    driver: str

    def start(self, *flags: str, logs: tuple[str, ...] = ()) -> webdriver.Chrome | webdriver.Edge:
        """The browser without a window, steered by its driver.

        Args:
            flags: for the browser, besides FLAGS.
            logs: the logs to keep, as in ``("browser", "performance")``.
        """
        name = "Edge" if Path(self.driver).stem == "msedgedriver" else "Chrome"
        options = getattr(webdriver, f"{name}Options")()
        for flag in (*FLAGS, *flags):
            options.add_argument(flag)
        options.binary_location = self.program
        prefix = "ms" if name == "Edge" else "goog"
        options.set_capability(f"{prefix}:loggingPrefs", dict.fromkeys(logs, "ALL"))
        service = getattr(webdriver, f"{name}Service")(self.driver)
        return getattr(webdriver, name)(options=options, service=service)


def major_version(program: str) -> int | None:
    """The first part of the version that a program states, None if it does not run."""
    command = [program, "--version"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"(\d+)(\.\d+){2,}", said.stdout)
    return int(version[1]) if version else None


def on_the_path() -> Browser | None:
    """The first browser on the PATH that a driver on the PATH has the version of."""
    for driver_name, names in DRIVERS.items():
        driver = shutil.which(driver_name)
        wanted = major_version(driver) if driver else None
        for program in filter(None, map(shutil.which, names)):
            if wanted is not None and major_version(program) == wanted:
                return Browser(program, driver)
    return None


def fetched_before() -> Browser | None:
    """What Selenium has fetched before, if it is still there."""
    try:
        browser = Browser(**json.loads(FETCHED.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return browser if all(map(shutil.which, (browser.program, browser.driver))) else None


@cache
def found() -> Browser:
    """The browser that is there already.

    Raises:
        FileNotFoundError: if there is none.
    """
    browser = on_the_path() or fetched_before()
    if browser is None:
        raise FileNotFoundError("there is no browser with its driver: python tools/browser.py")
    return browser


def by_apt() -> Browser | None:
    """Chromium from the packages of Debian or Ubuntu, if this process may install them."""
    if getattr(os, "geteuid", lambda: -1)() != 0 or shutil.which("apt-get") is None:
        return None
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["install", "-y", "-qq", "--no-install-recommends", "chromium", "chromium-driver"]
    for arguments in (["update", "-qq"], install):
        subprocess.run(["apt-get", *arguments], env=environment, check=False)
    return on_the_path()


def by_selenium() -> Browser | None:
    """A browser and a driver that Selenium fetches, or that fits a browser it knows to find."""
    try:
        paths = SeleniumManager().binary_paths(["--browser", "chrome"])
        browser = Browser(paths["browser_path"], paths["driver_path"])
    except (WebDriverException, KeyError) as error:
        print(f"Selenium could not fetch a browser: {error}", file=sys.stderr)
        return None
    write_atomically(FETCHED, json.dumps(asdict(browser)).encode())
    return browser


def provided() -> Browser:
    """A browser, got if it is not there.

    Raises:
        SystemExit: with what to type, if none can be had.
    """
    for way in (on_the_path, fetched_before, by_apt, by_selenium):
        browser = way()
        if browser is not None:
            return browser
    line = next((line for name, line in LINES.items() if shutil.which(name)), None)
    raise SystemExit(
        "The tests of the pages need Chromium, Chrome or Edge with its driver. Type:\n"
        + (line or "install Chromium and chromedriver, and put both on the PATH")
    )


def main() -> int:
    """Provide a browser, and see that it starts."""
    browser = provided()
    with tempfile.TemporaryDirectory() as profile:
        try:
            driver = browser.start(f"--user-data-dir={profile}")
        except WebDriverException as error:
            raise SystemExit(f"{browser.program} does not start: {error.msg}") from error
        version = driver.capabilities["browserVersion"]
        driver.quit()
    print(f"The pages are tested with {browser.program}, version {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
