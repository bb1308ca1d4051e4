"""Tiny policies on disk, made once for all tests of the samplers."""

from collections.abc import Callable

import pytest
from tiny_policies import save_policy

from sea_agent.config import PolicyConfig


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PolicyConfig]:
    """``tiny_policy(architecture, tied=False)``: a saved random float32 policy of about 100,000 parameters."""
    made: dict[tuple[str, bool], PolicyConfig] = {}

    def make(architecture: str, tied: bool = False) -> PolicyConfig:
        if (architecture, tied) not in made:
            directory = tmp_path_factory.mktemp(architecture)
            save_policy(directory, architecture, tied)
            made[architecture, tied] = PolicyConfig(path=str(directory))
        return made[architecture, tied]

    return make
