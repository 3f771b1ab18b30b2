r"""Run the benchmark: ``python -m benchmarks`` (``make bench`` does, in its own environment).

A part measures each workload in turn and writes its record after each piece, so that an
interruption loses little: with ``--resume`` it goes on from there.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from itertools import product
from pathlib import Path

import torch

from benchmarks import counts, followers, memory, tables, times
from benchmarks.workloads import WORKLOADS, Workload, checkpoints, problem
from flatminima._files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "scipy", "curvlinops-for-pytorch", "pyhessian", "hessian-eigenthings")
FEWER = ("mlp", "cnn", "transformer")
"""Workloads with dear products: half as many probes, and so none of the later searches."""


def following(
    workload: Workload, states: dict, options: argparse.Namespace, cells: list
) -> Iterator[list]:
    probes = options.probes // 2 if workload.name in FEWER else options.probes
    for every, factor in list(product(followers.EVERY, followers.FACTORS))[len(cells) :]:
        cells.append(followers.cell(workload, states["edge"], every, factor, probes))
        yield cells


def counted(
    workload: Workload, states: dict, options: argparse.Namespace, rows: list
) -> Iterator[list]:
    for k in counts.KS:
        if not any(row["k"] == k for row in rows):
            rows += counts.rows(problem(workload, states["edge"]), k, options.starts)
            yield rows


def cold(
    workload: Workload, states: dict, options: argparse.Namespace, points: dict
) -> Iterator[dict]:
    points = dict(points)
    for label, state in states.items():
        if label not in points:
            points[label] = times.cold(problem(workload, state), options.rounds)
            yield points


def product_cost(
    workload: Workload, states: dict, options: argparse.Namespace, done: dict
) -> Iterator[dict]:
    if not done:
        yield times.product_cost(problem(workload, states["edge"]), 15 * options.rounds)


def remembered(
    workload: Workload, states: dict, options: argparse.Namespace, done: list
) -> Iterator[list]:
    if not done:
        yield memory.rows()


ALL = tuple(workload.name for workload in WORKLOADS)
PARTS: dict[str, tuple[Callable, tuple[str, ...], Callable[[dict], list[str]]]] = {
    "following": (following, ("small", "transformer", "mlp", "cnn"), tables.following),
    "counts": (counted, ALL, tables.counts),
    "cold": (cold, ("mlp", "cnn"), tables.cold),
    "product": (product_cost, ("mlp", "cnn"), tables.product),
    "memory": (remembered, ("mlp",), tables.memory),
}
"""Name of a part -> (what measures a workload, those it measures, the table of its results)."""


def machine() -> dict:
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "niceness": os.nice(0),
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table(part: str, record: dict) -> str:
    """The Markdown of a part's record."""
    made = record["machine"]
    heading = (
        f"{made['processor']}, {made['threads']} thread(s), niceness {made['niceness']}, "
        f"{made['date']}"
    )
    return "\n".join([heading, "", *PARTS[part][2](record["results"])]) + "\n"


def write(folder: Path, part: str, record: dict) -> None:
    content = json.dumps(record, indent=1) + "\n"
    write_atomically(folder / f"{part}.json", content.encode())
    write_atomically(folder / f"{part}.md", table(part, record).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--workloads", nargs="+", choices=ALL, default=None)
    parser.add_argument("--rounds", type=int, default=3, help="of everything that is timed")
    parser.add_argument("--starts", type=int, default=3, help="random starts of each count")
    parser.add_argument("--resume", action="store_true", help="keep what the folder holds")
    parser.add_argument("--probes", type=int, default=24, help="of a trajectory")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for part in options.parts:
        measure, names, _ = PARTS[part]
        stored = options.folder / f"{part}.json"
        results = {}
        if options.resume and stored.exists():
            results = json.loads(stored.read_text(encoding="utf-8"))["results"]
        for workload in WORKLOADS:
            if workload.name not in names or workload.name not in (options.workloads or names):
                continue
            print(f"{part}: {workload.name}", flush=True)
            states = checkpoints(workload) if part != "memory" else {}
            for result in measure(workload, states, options, results.get(workload.name, [])):
                results[workload.name] = result
                record = {"machine": machine()}
                record |= {name: vars(options)[name] for name in ("rounds", "probes")}
                record["results"] = results
                record["workloads"] = {w.name: w.summary for w in WORKLOADS if w.name in names}
                write(options.folder, part, record)


if __name__ == "__main__":
    main()
