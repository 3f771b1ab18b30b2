"""Make the stored results: ``python -m study.experiments --preset default --only flatness``.

An interrupted sweep goes on where it was; a result whose runs are all stored is only written anew.
With ``--minutes`` it makes what it can of a list of runs in that time, see `study.lent`, and with
``--tabulate`` the tables of what such lists have made.
"""

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from study import experiments, lent, presets, results


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen experiments and store their tables; 1 if one of them could not be made."""
    began, available = time.monotonic(), experiments.NAMES
    parser = argparse.ArgumentParser(prog="study.experiments", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=presets.NAMES, default=presets.current())
    parser.add_argument("--only", nargs="*", choices=available, help="all, if not given")
    parser.add_argument("--workers", type=int, help="runs at once; by default one for each core")
    parser.add_argument("--dask", metavar="ADDRESS", help="run on the Dask cluster at this address")
    parser.add_argument("--time-limit", type=float, help="seconds that a run may take")
    parser.add_argument("--retry-failed", action="store_true", help="repeat runs that have failed")
    parser.add_argument("--minutes", type=float, help="work off the list for so long")
    parser.add_argument(
        "--tabulate", nargs="+", type=Path, metavar="FOLDER", help="store what lists have made"
    )
    options = parser.parse_args(arguments)
    if options.minutes is not None or options.tabulate:
        return of_the_list(options, began)
    status = 0
    with ExitStack() as stack:
        names = ("workers", "time_limit", "retry_failed")
        how = {name: getattr(options, name) for name in names}
        if options.dask:
            from distributed import Client

            client = stack.enter_context(Client(options.dask))
            how["executor"] = client.get_executor()
            how["workers"] = options.workers or sum(client.nthreads().values())
        for name in options.only or available:
            try:
                experiment = results.experiment(name)
                grid = experiment.grid(options.preset)
                made = results.store(results.compute(experiment, grid, options.preset, **how))
                print(made.describe())
            except (RuntimeError, OSError, ValueError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                status = 1
    return status


def of_the_list(options: argparse.Namespace, began: float) -> int:
    """Make runs of the list, or the tables of those made; 1 if it could not be done."""
    names = options.only or lent.LISTED
    try:
        if options.tabulate:
            for made in lent.tabulate(options.preset, options.tabulate, names):
                print(made.describe())
            return 0
        how = {"workers": options.workers or 1, "retry_failed": options.retry_failed}
        counts = lent.work(options.preset, options.minutes, names, began=began, **how)
    except (RuntimeError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    made = counts["now"] - counts["before"]
    print(f"{made} runs made, {counts['now']} are stored, {counts['left']} of the list are left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
