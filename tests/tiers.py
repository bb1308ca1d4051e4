"""Which tests belong to `make quick`, which process runs them, and which come first: a plugin of pytest."""

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

PLACES = {"tests/e2e/": "run", "tests/benchmarks/": "dear", "tests/learner/test_deepspeed_engine.py": "dear"}
"""The marker that a test gets for where it is."""
FIXTURES = {"browser": "browser", "postgres_url": "postgresql", "two_ranks": "dear", "traces": "dear"}
"""The marker that a test gets for a fixture it uses."""
DEAR = ("gpu", "soak", "vllm", "ray", "run", "browser", "dear")
"""Markers of tests that `make quick` leaves out and whose groups come first."""
PROGRAMS = ("gcs_server", "raylet", "playwright/driver/node")
"""Programs that only such tests may start."""

_started: list[str] = []


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by marker and the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they start, keep those of a file together, and put the groups with dear tests first."""
    groups: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        for marker in given_markers(item.nodeid, item.fixturenames):
            item.add_marker(marker)
        group = item.get_closest_marker("xdist_group")
        name = group.args[0] if group else item.nodeid.partition("::")[0]
        if group is None:
            item.add_marker(pytest.mark.xdist_group(name))
        groups[name].append(item)
    items[:] = [item for group in sorted(groups.values(), key=is_cheap) for item in group]


def given_markers(nodeid: str, fixtures: Iterable[str]) -> list[str]:
    """The markers that a test gets for where it is and for its fixtures."""
    placed = [marker for place, marker in PLACES.items() if nodeid.startswith(place)]
    return placed + [marker for fixture, marker in FIXTURES.items() if fixture in fixtures]


def is_cheap(group: list[pytest.Item]) -> bool:
    """Whether no test of the group takes long."""
    return not any(item.get_closest_marker(marker) for item in group for marker in DEAR)


def require_marker(item: pytest.Item, started: Iterable[str]) -> None:
    """Fail a test that starts Ray or a browser unmarked: `make quick` would not leave it out."""
    dear = [program for program in started if program.endswith(PROGRAMS)]
    assert not (dear and is_cheap([item])), f"a test that starts {dear[0]} needs one of the markers {', '.join(DEAR)}"


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        _started.append(os.fsdecode(arguments[0]))


sys.addaudithook(_note)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    _started.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    result = yield
    require_marker(item, _started)
    return result
