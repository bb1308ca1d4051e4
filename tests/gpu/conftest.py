"""Where there is no GPU, the tests of this folder are one skip, with the reason."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Last, so that nothing is left of them where the marker was not asked for.
    here = [item for item in items if HERE in item.path.parents]
    if torch.cuda.is_available() or not here:
        return
    here[0].add_marker(pytest.mark.skip(f"no CUDA device, which all {len(here)} tests in tests/gpu need"))
    config.hook.pytest_deselected(items=here[1:])
    items[:] = [item for item in items if item not in here[1:]]


@pytest.fixture
def two_gpus() -> None:
    """What needs two GPUs is skipped where there is one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device; this needs two")
