"""The rooms of the library and the study: what they import, what they offer, their size."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from test_examples import README

import flatminima
from study import ROOT
from study.pages import notebooks, offered, usage

SRC, CHAPTERS = ROOT / "src", ROOT / "chapters"
FILES = sorted(SRC.rglob("*.py"))
LARGEST_FILE = 500
LARGEST = {"flatminima": 13300, "study": 14700}
"""Lines of a file, and of each package without the examples in its docstrings: each public name has
one, and they are no reason to cut the rest."""

PRIVATE = (
    "flatminima._files",
    "flatminima._lazy",
    "flatminima._progress",
    "flatminima._validation",
)
MAY_NOT = {
    "flatminima/theory": (
        "torch",
        "flatminima.curvature",
        "flatminima.training",
        "flatminima.sweep",
    ),
    "flatminima/curvature": ("flatminima.training",),
    "flatminima": ("study",),
}
"""Folder of src -> what no file below it imports."""


def name_of(path: Path) -> str:
    """The dotted name of a file of src."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(module: ast.AST) -> set[str]:
    """All that code imports, wherever it does so: each module, and each name as if it were one."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return found


def forbidden(imported: set[str], roots: tuple[str, ...]) -> set[str]:
    """Those of the imports that are one of the roots or lie below it."""
    return {name for name in imported if any(f"{name}.".startswith(f"{r}.") for r in roots)}


@pytest.mark.parametrize("folder", MAY_NOT)
def test_imports_point_one_way(folder):
    wrong = {
        path.relative_to(SRC).as_posix(): found
        for path in (SRC / folder).rglob("*.py")
        if (found := forbidden(imports(tree(path)), MAY_NOT[folder]))
    }
    assert wrong == {}


def test_theory_needs_numpy_and_scipy_alone():
    known = {*sys.stdlib_module_names, "numpy", "scipy"}
    for path in (SRC / "flatminima/theory").rglob("*.py"):
        others = {name for name in imports(tree(path)) if name.split(".")[0] not in known}
        rest = others - forbidden(others, ("flatminima.theory", *PRIVATE))
        assert rest <= {"flatminima"}, path.name


def test_a_wrong_import_would_be_found():
    code = "def f():\n    from flatminima import training\n    import torch.nn\n"
    found = imports(ast.parse(code))
    assert forbidden(found, ("torch", "flatminima.training")) == {"torch.nn", "flatminima.training"}
    assert not forbidden({"flatminima.training_wheels"}, ("flatminima.training",))


def test_imports_name_the_whole_module():
    for path in FILES:
        assert not [name for name in imports(tree(path)) if name.startswith(".")], path


def test_the_library_knows_no_folder_but_its_own():
    for path in (SRC / "flatminima").rglob("*.py"):
        for node in ast.walk(tree(path)):
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"), path
            wide = isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(".parents")
            assert not wide, path


def loaded_by(code: str) -> set[str]:
    """The names of all modules that are loaded once some code has run in a new interpreter."""
    code += "\nimport sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_importing_the_library_loads_next_to_nothing():
    loaded = loaded_by("import flatminima")
    assert not loaded & {"torch", "numpy", "scipy", "matplotlib", "study"}
    assert {name for name in loaded if name.startswith("flatminima")} == {
        "flatminima",
        "flatminima._lazy",
    }


def test_the_half_without_networks_loads_no_torch():
    theory = ", ".join(path.stem for path in (SRC / "flatminima/theory").glob("[a-z]*.py"))
    loaded = loaded_by(
        f"from flatminima import statistics, plotting\nfrom flatminima.theory import {theory}\n"
        "from study import results"
    )
    assert "flatminima.theory.maps" in loaded
    assert "torch" not in loaded


def lines_in(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def test_a_file_is_of_a_size_that_can_be_read():
    assert {name_of(path): n for path in FILES if (n := lines_in(path)) > LARGEST_FILE} == {}


def example_lines(module: ast.Module) -> int:
    """Lines of the sections of examples, the last ones of their docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = [ast.get_docstring(n) or "" for n in ast.walk(module) if isinstance(n, documented)]
    return sum(len(t[t.index("Example:") :].splitlines()) for t in texts if "Example:" in t)


@pytest.mark.parametrize("package", LARGEST)
def test_a_package_stays_small(package):
    paths = list((SRC / package).rglob("*.py"))
    lines = sum(lines_in(path) - example_lines(tree(path)) for path in paths)
    assert lines <= LARGEST[package]


def test_examples_are_told_from_the_rest():
    code = '"""One.\n\nExample:\n    >>> 1\n    1\n"""\n\n\ndef f():\n    """No example."""\n'
    assert example_lines(ast.parse(code)) == 3


# --- public names


def room(module: str) -> str:
    """The room of a module: flatminima.curvature of flatminima.curvature.measures."""
    return ".".join(module.split(".")[:2])


def test_every_public_module_says_what_it_offers():
    private = {name for name in offered.modules() if "._" in name}
    silent = [
        name
        for name in offered.modules()
        if name not in private and not hasattr(importlib.import_module(name), "__all__")
    ]
    # The theory is read module by module, and the experiments are listed by name.
    assert set(silent) <= {"flatminima.theory", "study.experiments"}


@pytest.mark.parametrize("module", offered.modules())
def test_what_a_module_offers_is_there(module):
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", [])
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(loaded, name)] == []


def test_every_public_name_is_offered_by_one_room():
    """The front repeats names, and the packages of a room may repeat what their modules offer."""
    rooms, where = defaultdict(set), defaultdict(set)
    for module in offered.modules():
        for name, member in offered.offers(module).items():
            # Equal constants of one name in two rooms would have two homes as well.
            key = offered.identity(member) or f"{name} = {member!r}"
            rooms[key].add(room(module))
    assert {key: found for key, found in rooms.items() if len(found) > 1} == {}
    for module in offered.public_modules():
        for name, member in offered.public_members(module).items():
            where[offered.identity(member) or f"{module}.{name}"].add(module)
    assert {key: found for key, found in where.items() if len(found) > 1} == {}


def test_what_a_module_offers_is_its_own():
    for module in offered.public_modules():
        homes = {
            identity.rpartition(".")[0]
            for member in offered.public_members(module).values()
            if (identity := offered.identity(member))
        }
        assert {room(home) for home in homes} <= {room(module)}, module


def test_the_front_repeats_names_of_the_rooms():
    public = {
        offered.identity(member)
        for module in offered.public_modules()
        for member in offered.public_members(module).values()
    }
    for name, member in offered.offers("flatminima").items():
        assert offered.identity(member) in public - {None}, name
    assert 20 <= len(flatminima.__all__) <= 40
    assert set(flatminima.__all__) <= set(dir(flatminima))


# --- every public name is used: by a chapter, by the study, by an example, or in the reference


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """The names of all that has a docstring in a file, each with it; the file's own first."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield getattr(node, "name", ""), ast.get_docstring(node) or ""


def examples(text: str) -> str:
    """The code of the examples in a docstring."""
    return "\n".join(example.source for example in doctest.DocTestParser().get_examples(text))


def programs() -> Iterator[tuple[str, set[str]]]:
    """All code that shows a use, as the dotted names in it, each with the module it belongs to."""
    for chapter in CHAPTERS.glob("*.ipynb"):
        yield "", usage.names_in(notebooks.program(chapter))
    for block in README:
        code = examples(block["code"]) or block["code"]
        yield "", usage.names_in(code)
    for path in (SRC / "study").rglob("*.py"):
        yield name_of(path), usage.names_in(path.read_text(encoding="utf-8"))
    for path in (ROOT / "tools").glob("*.py"):
        yield "", usage.names_in(path.read_text(encoding="utf-8"))
    for path in FILES:
        code = "\n".join(examples(text) for _, text in docstrings(path))
        # An example knows the names of its module without importing them.
        bare = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
        yield "", usage.names_in(code) | {f"{name_of(path)}.{name}" for name in bare}


def used_in_code() -> set[str]:
    """Identities of the functions and classes that code uses, and the last names of all else."""
    found = set()
    for module, names in programs():
        for name in names:
            identity = usage.resolved(name)
            if identity is None:
                found.add(name.rpartition(".")[2])
            elif identity.rpartition(".")[0] != module:
                found.add(identity)
    return found


def named_in_text(name: str) -> bool:
    """Whether the docstring or the result of something else, or a page of text, names it."""
    # A word that is none of English needs no backquotes to be a name.
    plain = name.lower() != name
    wanted = re.compile(rf"\b{name}\b" if plain else rf"`[\w.~]*\b{name}(\(\))?`")
    return any(own != name and wanted.search(text) for own, text in texts())


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """The pages of text, docstrings, and what functions return, each with the name it is of."""
    found = [("", path.read_text(encoding="utf-8")) for path in CHAPTERS.glob("*.md")]
    for path in FILES:
        found += docstrings(path)
        functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]
        found += [(f.name, ast.unparse(f.returns)) for f in functions if f.returns]
    return tuple(found)


def test_every_public_name_is_used():
    used = used_in_code()
    unused = [
        f"{module}.{name}"
        for module in offered.public_modules()
        for name, member in offered.public_members(module).items()
        if (offered.identity(member) or name) not in used and not named_in_text(name)
    ]
    assert unused == []
