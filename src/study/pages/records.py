"""How the stored results and benchmarks were made, as Markdown, from the records beside them."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from study import presets, provenance, results
from study.pages import notebooks
from study.pages.generated import table


def result_lines(chapters: Path, folder: Path) -> list[str]:
    """All in a table, then a section for each stored result, those of the largest preset first.

    Raises:
        CorruptResultError: if a result is not what its record says.
    """
    stored = sorted(results.stored(folder), key=lambda r: (-_size(r[0]), r[1]))
    records = [results.load(name, preset, folder=folder).provenance for preset, name in stored]
    lines = [*table(("preset", "tables", "runs", "computing, one core"), totals(records)), ""]
    lines += [*table(("result", "preset", "what", "runs", "computing"), overview(records)), ""]
    for (preset, name), record in zip(stored, records, strict=True):
        rows = record_rows(record, chapters_showing(record, chapters, folder))
        lines += [f"## {name}, preset {preset}", "", f"{linked(record['summary'])}.", ""]
        lines += [*table(("what", "record"), rows), ""]
    return lines


def totals(records: Sequence[dict]) -> list[tuple[str, ...]]:
    """Of each preset: how many tables and runs it has, and what it takes to make them all again."""
    rows = []
    for preset in dict.fromkeys(record["preset"] for record in records):
        own = [record for record in records if record["preset"] == preset]
        runs, seconds = (sum(record[key] for record in own) for key in ("runs", "seconds"))
        rows.append((f"`{preset}`", f"{len(own)}", f"{runs:,}", provenance.duration(seconds)))
    return rows


def overview(records: Sequence[dict]) -> list[tuple[str, ...]]:
    """A row for each result: what it is, and what it takes to make it again."""
    rows = []
    for r in records:
        cost = f"{r['runs']:,}", provenance.duration(r["seconds"])
        rows.append((f"`{r['name']}`", f"`{r['preset']}`", linked(r["summary"]), *cost))
    return rows


def linked(text: str) -> str:
    """A summary in which a statement, named as in the code, is a link with the book's number."""

    def link(named: re.Match) -> str:
        return f"{{prf:ref}}`{'thm' if named[1] == 'Theorem' else 'prop'}-{named[2]}`"

    return re.sub(r"(Theorem|Proposition) ([A-Z]\d+)\b", link, text)


def _size(preset: str) -> int:
    return presets.NAMES.index(preset)


def record_rows(record: dict, shown_in: list[str]) -> list[tuple[str, str]]:
    """What a record says, a line each."""
    counts = ", ".join(f"{n} {status}" for status, n in record["statuses"].items())
    varied = {k: v for k, v in record["grid"].items() if len(v) > 1 and k != "seed"}
    fixed = {k: v[0] for k, v in record["grid"].items() if len(v) == 1}
    return [
        ("made by", f"`{provenance.command(record['name'], record['preset'])}`"),
        ("runs", f"{record['runs']} ({counts})"),
        ("varied", "<br>".join(f"`{k}`: {_listed(v)}" for k, v in varied.items()) or "—"),
        ("seeds", _listed(record["seeds"]) or "—"),
        ("the same for all", ", ".join(f"`{k}` {_listed([v])}" for k, v in fixed.items()) or "—"),
        ("device", " and ".join(record["devices"])),
        ("versions", ", ".join(f"{k} {v}" for k, v in record["versions"].items())),
        ("computing", provenance.duration(record["seconds"])),
        ("when (UTC)", f"{_moment(record['started'])} to {_moment(record['date'])}"),
        ("revision", f"`{record['revision']}`" if record.get("revision") else "not recorded"),
        ("code", f"`{record['code'][:16]}…` (SHA-256 of the modules it depends on)"),
        ("table", f"`{record['sha256'][:16]}…` (SHA-256)"),
        ("shown in", ", ".join(f"{{doc}}`{c}`" for c in shown_in) or "the tests alone"),
    ]


def chapters_showing(record: dict, chapters: Path, folder: Path) -> list[str]:
    """The chapters that load a result; one that names no preset loads the largest stored one."""
    name = record["name"]
    largest = max((p for p, n in results.stored(folder) if n == name), key=_size)
    call = re.compile(rf'results\.load\("{name}"((?:, "\w+")*)\)')
    found = []
    for path in sorted(chapters.glob("*.ipynb")):
        asked = {tuple(re.findall(r"\w+", m[1])) for m in call.finditer(notebooks.program(path))}
        if any(record["preset"] in (choice or (largest,)) for choice in asked):
            found.append(path.stem)
    return found


def _listed(values: list) -> str:
    return ", ".join("none" if value is None else str(value) for value in values)


def _moment(text: str) -> str:
    return text[:16].replace("T", " ")


def benchmark_lines(folder: Path) -> list[str]:
    """A section for each stored benchmark: what was timed with what, and its table.

    Raises:
        ValueError: if a table has no record beside it.
    """
    lines = []
    for path in sorted(folder.glob("*.md")):
        record = path.with_suffix(".json")
        if not record.exists():
            raise ValueError(f"{path} needs its record, {record.name}: `make bench` makes both")
        machine = json.loads(record.read_text(encoding="utf-8"))["machine"]
        versions = {"python": machine["python"], **machine["versions"]}
        said = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines += [f"## Benchmark: {path.stem}", "", f"Made by `make bench` with {said}.", ""]
        lines += [path.read_text(encoding="utf-8").strip(), ""]
    return lines
