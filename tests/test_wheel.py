"""The wheel: the library alone, whose theory needs NumPy and SciPy and nothing else.

Nothing is downloaded: the wheel is built by the setuptools of this environment and installed into a
fresh one, which is shown the packages of this one that it may see.
"""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from study import ROOT

HERE = Path(sysconfig.get_path("purelib"))
THEORY = """
import flatminima
from flatminima.theory.scalar_network import ScalarNetwork
network = ScalarNetwork(2, 1.0)
print(flatminima.__file__, float(network.sharpness([1.0, 1.0])))
"""
NETWORKS = """
import flatminima as fm
images = fm.datasets.load("fashion-mnist-subset", n_train=50)
model = fm.models.mlp([784, 8, 10], "tanh", seed=0)
risk = fm.EmpiricalRisk(model, "cross_entropy", (images.x_train, images.y_train))
print(fm.__file__, fm.sharpness(risk))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; it must succeed."""
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "-w", folder, cwd=source)
    (made,) = folder.glob("flatminima-*.whl")
    return made


class Environment:
    """A virtual environment that holds the wheel, and sees some packages of this one."""

    def __init__(self, folder: Path, wheel: Path):
        venv.create(folder / "env", with_pip=False)
        names = {"base": str(folder / "env"), "platbase": str(folder / "env")}
        scheme = "nt" if sys.platform == "win32" else "posix_prefix"
        self.packages = Path(sysconfig.get_path("purelib", scheme, vars=names))
        self.python = Path(sysconfig.get_path("scripts", scheme, vars=names), "python")
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python]
        run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=self.elsewhere)

    def shows(self, name: str) -> None:
        """Make a package of this environment, and the libraries beside it, visible."""
        for path in (HERE / name, HERE / f"{name}.libs"):
            if path.exists():
                (self.packages / path.name).symlink_to(path, target_is_directory=True)

    def shows_all(self) -> None:
        """Make all packages visible, but nothing that is installed in place."""
        (self.packages / "others.pth").write_text(f"{HERE}\n", encoding="utf-8")

    def run(self, program: str) -> list[str]:
        """The words that a program prints, run from another folder without this one's settings."""
        return run(self.python, "-I", "-c", program, cwd=self.elsewhere).split()


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheel):
    made = Environment(tmp_path_factory.mktemp("environment"), wheel)
    made.shows("numpy")
    made.shows("scipy")
    return made


def test_the_wheel_holds_the_library_its_data_and_nothing_of_the_book(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    folders = {name.split("/")[0] for name in names}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"flatminima"}
    source = ROOT / "src/flatminima"
    files = [path for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {f"flatminima/{path.relative_to(source).as_posix()}" for path in files} <= set(names)


# One test, so that the environment is made once however the tests are distributed.
def test_a_fresh_environment_runs_the_theory_and_with_torch_the_rest(environment):
    where, sharpness = environment.run(THEORY)
    assert Path(where).is_relative_to(environment.packages)
    assert float(sharpness) == pytest.approx(2.0)
    seen = "import importlib.util as u; print(*map(u.find_spec, ['torch', 'study', 'matplotlib']))"
    assert environment.run(seen) == ["None"] * 3

    environment.shows_all()
    where, sharpness = environment.run(NETWORKS)
    assert Path(where).is_relative_to(environment.packages), "the copy in place was found instead"
    assert float(sharpness) > 0
    assert environment.run("import importlib.util as u; print(u.find_spec('study'))") == ["None"]
