"""What whole runs share: parts that can die in this process, and a cluster of two nodes."""

from collections.abc import Iterator

import pytest
from e2e.two_nodes import TwoNodes
from mortal_parts import mortal

__all__ = ["mortal"]


@pytest.fixture(scope="session")
def started() -> Iterator[TwoNodes]:
    nodes = TwoNodes()
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture
def nodes(started: TwoNodes) -> Iterator[TwoNodes]:
    """The cluster, which the tests of the group ``nodes`` share; a worker that one of them has lost is replaced."""
    yield started
    started.mend()
