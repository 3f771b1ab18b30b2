"""The reference of the library and the study, from their docstrings."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path

from sphinx.application import Sphinx

from study.pages import contents, offered, usage
from study.pages.generated import Generated, table


class ApiModules(Generated):
    """The reference of some modules, from their docstrings."""

    required_arguments = 1
    final_argument_whitespace = True

    def lines(self) -> list[str]:
        known, lines = offered.public_modules(), []
        for name in self.arguments[0].split():
            if name not in known:
                raise self.error(f"there is no public module {name!r}")
            found, constants = offered.public_members(name), offered.constants(name)
            members = ",".join(member for member in found if member not in constants)
            lines += [f"## `{name}`", "", "```{eval-rst}", f".. automodule:: {name}"]
            lines += [f"   :members: {members}", "   :imported-members:"] if members else []
            lines += [""]
            for constant, text in constants.items():
                lines += [f".. py:data:: {constant}", f"   :module: {name}"]
                value = offered.shown_value(found[constant])
                lines += [f"   :value: {value}"] if value else []
                lines += ["", *(f"   {t}".rstrip() for t in _without_bars(text).split("\n")), ""]
            lines += ["```", ""]
        return lines


class ApiTable(Generated):
    """All public modules with the first line of their docstrings."""

    def lines(self) -> list[str]:
        rows = []
        for name in offered.public_modules():
            first = (import_module(name).__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
            first = first.replace("``", "`").replace("|", "or")
            members = [f"{{py:obj}}`{m} <{name}.{m}>`" for m in offered.public_members(name)]
            rows.append((f"{{py:mod}}`{name}`", f"{first}<br>{', '.join(members)}"))
        return table(("module", "what it holds"), rows)


def _without_bars(text: str) -> str:
    parts = re.split(r"(``.*?``|`[^`]*`)", text, flags=re.DOTALL)
    parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
    return "".join(parts)


def keep_lone_letters(app: Sphinx, what, name, member, options, lines: list[str]) -> None:
    """Keep "width: m." in a docstring a description: "m." alone would begin a numbered list."""
    lines[:] = [re.sub(r"^(\s+\w+: [A-Za-z])\.$", r"\1", line) for line in lines]


@cache
def _used_in(source: Path) -> dict[str, list[str]]:
    return usage.used_in(source / "chapters", contents.names(source))


def add_used_in(app: Sphinx, what, name, member, options, lines: list[str]) -> None:
    """At the end of a docstring of the library, the chapters that use the function or class."""
    documents = _used_in(Path(app.srcdir)).get(offered.identity(member) or "", [])
    if documents and what in ("function", "class"):
        links = ", ".join(f":doc:`/chapters/{document}`" for document in documents)
        lines += ["", f"*Used in:* {links}.", ""]


def escape_bars(app: Sphinx, what, name, member, options, lines: list[str]) -> None:
    """Keep ``|y|`` in a docstring from being read as a substitution: it is an absolute value."""
    lines[:] = _without_bars("\n".join(lines)).split("\n")


def skip_plain_fields(app: Sphinx, what, name, member, skip, options) -> bool | None:
    """Leave out the fields of named tuples, which their class describes as attributes."""
    return True if type(member).__name__ == "_tuplegetter" else None


def register(app) -> None:
    """Register the directives and what mends docstrings before they are parsed."""
    app.add_directive("api-modules", ApiModules)
    app.add_directive("api-table", ApiTable)
    # Before napoleon, at the usual 500, reads the lines.
    app.connect("autodoc-process-docstring", keep_lone_letters, priority=400)
    app.connect("autodoc-process-docstring", add_used_in, priority=900)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-skip-member", skip_plain_fields)
