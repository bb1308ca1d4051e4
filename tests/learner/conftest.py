"""Learners of the shared tiny policy."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tiny_learners import make_learner

from learner.learner import PreferenceLearner


@pytest.fixture(scope="session")
def policy_path(policy_dir: Callable[[str], Path]) -> str:
    """A directory with the tiny Llama."""
    return str(policy_dir("llama"))


@pytest.fixture
def learner_of(policy_path: str) -> Callable[..., PreferenceLearner]:
    """Makes learners of the tiny policy; keywords are fields of LearnerConfig, and ``dtype``."""
    return partial(make_learner, policy_path)
