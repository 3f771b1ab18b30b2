"""Make the stored results: ``python -m study.experiments --preset default --only flatness``.

An interrupted sweep goes on where it was; a result whose runs are all stored is only written anew.
"""

import argparse
import sys
from contextlib import ExitStack

from study import experiments, presets, results


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen experiments and store their tables; 1 if one of them could not be made."""
    available = experiments.NAMES
    parser = argparse.ArgumentParser(prog="study.experiments", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=presets.NAMES, default=presets.current())
    parser.add_argument("--only", nargs="*", choices=available, help="all, if not given")
    parser.add_argument("--workers", type=int, help="runs at once; by default one for each core")
    parser.add_argument("--dask", metavar="ADDRESS", help="run on the Dask cluster at this address")
    parser.add_argument("--time-limit", type=float, help="seconds that a run may take")
    parser.add_argument("--retry-failed", action="store_true", help="repeat runs that have failed")
    options = parser.parse_args(arguments)
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


if __name__ == "__main__":
    sys.exit(main())
