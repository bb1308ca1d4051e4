"""Built-in worlds made anew: quickly, with hardly any training, and as `sea-agent world make` makes them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sea_agent.worlds import make

Remake = Callable[[str], Path]


FEW_STEPS = 50


@pytest.fixture(scope="session")
def remake(tmp_path_factory: pytest.TempPathFactory) -> Remake:
    """``remake("kitchen")``: the world with hardly any training; all but the weights is as in the long form."""

    def world(name: str) -> Path:
        directory = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(make.POLICY_STEPS, name, FEW_STEPS)
            patch.setattr(make, "ENCODER_STEPS", FEW_STEPS)
            patch.setattr(make, "DEMONSTRATIONS", make.SHIPPED_DEMONSTRATIONS)
            make.make_world(name, directory)
        return directory

    return world


@pytest.fixture(scope="session")
def retrain(tmp_path_factory: pytest.TempPathFactory) -> Remake:
    """``retrain("kitchen")``: the world with its models fully trained."""

    def world(name: str) -> Path:
        directory = tmp_path_factory.mktemp(name)
        make.make_world(name, directory)
        return directory

    return world


def digest(path: Path) -> str:
    """SHA-256 of a file, the first 16 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def shapes(model: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of a model."""
    return {name: tuple(tensor.shape) for name, tensor in load_file(model / "model.safetensors").items()}
