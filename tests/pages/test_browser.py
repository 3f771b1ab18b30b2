"""tools/browser.py: a browser with its driver is found, or got, or what to type is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import browser
import pytest

from study import ROOT

CHROMIUM, DRIVER = "Chromium {}.0.8078.1 built on Debian", "ChromeDriver {}.0.8078.1 (730)"


def program(folder: Path, name: str, script: str) -> str:
    """A program that is a shell script; its path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def says(folder: Path, name: str, text: str) -> str:
    """A program that says its version."""
    return program(folder, name, f'[ "$1" = --version ] && echo "{text}"')


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """The folder that alone is on the PATH of a machine where nothing can be got."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("SE_MANAGER_PATH", program(tmp_path, "selenium-manager", "exit 65"))
    monkeypatch.setattr(browser, "FETCHED", tmp_path / "fetched" / "browser.json")
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    browser.found.cache_clear()
    yield folder
    browser.found.cache_clear()


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome", "chrome"])
def test_what_is_on_the_path_is_used(bare, name):
    wanted = says(bare, name, CHROMIUM.format(150)), says(bare, "chromedriver", DRIVER.format(150))
    assert browser.provided() == browser.found() == browser.Browser(*wanted)


def test_edge_has_a_driver_of_its_own(bare):
    edge = says(bare, "microsoft-edge", "Microsoft Edge 140.0.1.2")
    says(bare, "chromedriver", DRIVER.format(140))
    assert browser.on_the_path() is None, "Chrome's driver does not steer Edge"
    driver = says(bare, "msedgedriver", "Microsoft Edge WebDriver 140.0.1.2")
    assert browser.provided() == browser.Browser(edge, driver)


@pytest.mark.parametrize("version", ["149.0.1.2", "no version", ""])
def test_a_driver_of_another_version_is_none(bare, version):
    says(bare, "chromium", CHROMIUM.format(150))
    says(bare, "chromedriver", f"ChromeDriver {version}")
    assert browser.on_the_path() is None


def test_another_browser_may_be_the_one_that_the_driver_fits(bare):
    says(bare, "chromium", CHROMIUM.format(150))
    program(bare, "chromium-browser", "exit 1")
    chrome = says(bare, "google-chrome", "Google Chrome 151.0.1.2")
    driver = says(bare, "chromedriver", DRIVER.format(151))
    assert browser.provided() == browser.Browser(chrome, driver)


FAKE_APT = f"""\
#!{sys.executable}
import os, pathlib, sys
here = pathlib.Path(__file__).parent
log = here.with_name("log")
before = log.read_text() if log.exists() else ""
log.write_text(before + " ".join([os.environ["DEBIAN_FRONTEND"], *sys.argv[1:]]) + "\\n")
if sys.argv[1] == "install" and "update" in before:
    for name in ("chromium", "chromedriver"):
        (here / name).write_text("#!/bin/sh\\necho 150.1.2.3\\n")
        (here / name).chmod(0o755)
"""
"""An apt-get that brings Chromium and its driver once its lists are up to date."""


@pytest.fixture
def apt(bare, tmp_path):
    """The record of what this machine's apt-get was told."""
    path = bare / "apt-get"
    path.write_text(FAKE_APT)
    path.chmod(0o755)
    return tmp_path / "log"


def test_root_gets_it_from_apt(bare, apt, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    found = browser.Browser(str(bare / "chromium"), str(bare / "chromedriver"))
    assert browser.provided() == found
    called = apt.read_text().splitlines()
    assert called[0] == "noninteractive update -qq"
    assert called[1].endswith("chromium chromium-driver")
    assert browser.provided() == found
    assert len(apt.read_text().splitlines()) == 2, "what is there is not got again"


def test_who_is_not_root_does_not_call_apt(apt):
    with pytest.raises(SystemExit) as stopped:
        browser.provided()
    assert not apt.exists()
    said = str(stopped.value).splitlines()
    assert said[-1] == "sudo apt-get install chromium chromium-driver"


def test_selenium_fetches_its_own_and_it_is_found_again(bare, tmp_path, monkeypatch):
    says(bare, "chromium", CHROMIUM.format(150))
    paths = {"browser_path": says(tmp_path, "chrome", ""), "driver_path": says(tmp_path, "d", "")}
    answer = json.dumps({"logs": [], "result": paths})
    monkeypatch.setenv("SE_MANAGER_PATH", program(tmp_path, "manager", f"echo '{answer}'"))
    with pytest.raises(FileNotFoundError, match=r"tools/browser\.py"):
        browser.found()
    fetched = browser.Browser(*paths.values())
    assert browser.provided() == fetched
    monkeypatch.setenv("SE_MANAGER_PATH", str(tmp_path / "absent"))
    assert browser.found() == browser.provided() == fetched
    Path(fetched.driver).unlink()
    assert browser.fetched_before() is None, "it has been removed"


@pytest.mark.parametrize(
    ("helper", "line"), [("apt-get", "sudo apt-get install"), ("dnf", "sudo dnf install")]
)
def test_where_nothing_can_be_had_the_tool_says_what_to_type(bare, tmp_path, helper, line):
    program(bare, helper, "exit 1")
    code = (
        f"import sys, os; from pathlib import Path; sys.path.insert(0, {str(ROOT / 'tools')!r})\n"
        f"import browser; browser.FETCHED = Path({str(tmp_path / 'absent')!r})\n"
        "os.geteuid = lambda: 1000; sys.exit(browser.main())"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(line)
    assert result.stdout == ""


def test_a_browser_that_does_not_start_is_named(bare, tmp_path, monkeypatch):
    says(bare, "chromium", CHROMIUM.format(150))
    says(bare, "chromedriver", DRIVER.format(150))
    with pytest.raises(SystemExit, match=r"bin/chromium does not start"):
        browser.main()


def dry_run(target: str) -> list[str]:
    """The commands of a target of the Makefile, in order, none of them run."""
    command = ["make", "-n", "-B", target]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [line for line in said.splitlines() if line.startswith(".venv/bin/")]


@pytest.mark.parametrize("target", ["test", "pdf"])
def test_make_provides_the_browser_before_it_runs_anything_else(target):
    commands = dry_run(target)
    first = next(i for i, command in enumerate(commands) if "tools/browser.py" in command)
    assert all("pip install" in command for command in commands[:first])
    assert len(commands) > first + 2


def test_what_runs_on_a_bare_machine_is_make_test():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert script[-1] == "make test"
    assert not [line for line in script if "chrom" in line]
