"""What all tests share: their draws are fixed, except in a search for new cases.

Hypothesis draws the same examples each time, so that the suite says the same of the same code, and
no test depends on how fast the machine is. ``make search`` runs the property tests, and those with
the mark ``search``, on new draws, and ten times as many. What it finds becomes an ``@example``.
"""

import functools
import hashlib
import itertools
import os
import random
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

# A deadline, or complaints about slow draws, would judge the machine.
_UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", derandomize=True, **_UNTIMED)
settings.register_profile("search", derandomize=False, print_blob=True, **_UNTIMED)
settings.load_profile("default")

ROUNDS = 10
"""How often a search runs each property test, each time with draws of its own."""


def searching(config: pytest.Config) -> bool:
    """Whether this is ``make search``."""
    return config.getoption("--hypothesis-profile") == "search"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """In a search, make each property test ten."""
    if searching(metafunc.config) and is_hypothesis_test(metafunc.function):
        metafunc.fixturenames.append("round_of_search")
        metafunc.parametrize("round_of_search", range(ROUNDS), ids=lambda i: f"round{i}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a search, leave out what draws nothing."""
    if not searching(config):
        return
    drawing = [i for i in items if is_hypothesis_test(i.obj) or i.get_closest_marker("search")]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(drawing)])
    items[:] = drawing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """In a search, count the examples on which a property test runs."""
    if not (searching(item.config) and is_hypothesis_test(item.obj)):
        return (yield)
    handle, count = item.obj.hypothesis, 0
    test = handle.inner_test

    @functools.wraps(test)
    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        return test(*args, **kwargs)

    handle.inner_test = counted
    try:
        return (yield)
    finally:
        handle.inner_test = test
        item.user_properties.append(("examples", count))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """After a search, say how far it went."""
    if not searching(config):
        return
    runs = [
        (report.nodeid.partition("[")[0], dict(report.user_properties)["examples"])
        for report in itertools.chain(*terminalreporter.stats.values())
        if getattr(report, "when", "") == "call" and "examples" in dict(report.user_properties)
    ]
    tests, examples = {test for test, _ in runs}, sum(count for _, count in runs)
    terminalreporter.write_line(
        f"searched with {len(tests)} property tests in {ROUNDS} rounds: {examples:,} examples"
    )


def fixed_seed(request: pytest.FixtureRequest) -> int:
    """A seed that is the same whenever and wherever a test is run: its name, hashed."""
    return int.from_bytes(hashlib.sha256(request.node.name.encode()).digest()[:7], "big")


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> np.random.Generator:
    """Draws fixed by the name of the test, new ones in a search; a failure shows the seed."""
    new = searching(request.config)
    seed = int.from_bytes(os.urandom(7), "big") if new else fixed_seed(request)
    print(f"the generator's seed is {seed}")
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def own_global_draws(request: pytest.FixtureRequest) -> None:
    """Let what a test draws without a generator not depend on the tests that ran before it."""
    random.seed(fixed_seed(request))
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(fixed_seed(request))
