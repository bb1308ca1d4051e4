"""A checkpoint gives back what was put in, whole or not at all, and says what is wrong with a broken one."""

import json
import math
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sea_agent.config import CheckpointConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.persistence import checkpoint
from sea_agent.persistence.checkpoint import Checkpoints, read_checkpoint

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.tuples(st.integers(), st.text())
tensors = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]).map(
    lambda dtype: torch.arange(6).reshape(2, 3).to(dtype)
)
states = st.recursive(
    plain | tensors,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def write(directory: Path, *rounds: int, state: Any = None, **config: Any) -> None:
    with Checkpoints(directory, CheckpointConfig(**config), {}) as checkpoints:
        for number in rounds:
            checkpoints.save(number, {"round": number} if state is None else state, None)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(state=st.dictionaries(st.text(), states))
def test_what_was_saved_comes_back(state: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, 1, state=state)
    found = read_checkpoint(tmp_path, {})
    assert found is not None
    assert same(found.state, state)


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 5e-324, math.inf, -0.0]
    write(tmp_path, 1, state={"values": values})
    found = read_checkpoint(tmp_path, {})
    assert found is not None
    assert [value.hex() for value in found.state["values"]] == [value.hex() for value in values]


def test_what_is_neither_tensor_nor_plain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not object"):
        write(tmp_path, 1, state={"thing": object()})


def test_a_state_may_change_while_the_one_before_is_written(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, CheckpointConfig(keep=9), {}) as checkpoints:
        for number in range(1, 6):
            checkpoints.save(number, {"tensor": torch.full((64, 64), float(number))}, None)
    for number in range(1, 6):
        found = read_checkpoint(tmp_path, {}, f"round-{number:06d}")
        assert found is not None
        assert bool((found.state["tensor"] == number).all())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4, keep=2)
    assert names(tmp_path) == ["round-000003", "round-000004"]
    found = read_checkpoint(tmp_path, {})
    assert found is not None
    assert found.name == "round-000004"


def test_the_best_is_kept_when_asked_for(tmp_path: Path) -> None:
    for keep_best, expected in ((True, ["round-000002", "round-000004"]), (False, ["round-000004"])):
        folder = tmp_path / str(keep_best)
        with Checkpoints(folder, CheckpointConfig(keep=1, keep_best=keep_best), {}) as checkpoints:
            for number, rate in enumerate([None, 0.7, 0.6, 0.65], start=1):
                checkpoints.save(number, {}, rate)
        assert names(folder) == expected


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "nothing", {}) is None
    (tmp_path / "round-000007.part").mkdir()
    assert read_checkpoint(tmp_path, {}) is None
    with pytest.raises(UserError, match=r"no checkpoint round-000009; there is none"):
        read_checkpoint(tmp_path, {}, "round-000009")


def manifest_of(directory: Path, **changes: Any) -> None:
    file = directory / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit turned": (
        lambda d: (d / "tensors.safetensors").write_bytes(
            (d / "tensors.safetensors").read_bytes()[:-1] + bytes([(d / "tensors.safetensors").read_bytes()[-1] ^ 1])
        ),
        "tensors.safetensors is damaged",
    ),
    "truncated": (
        lambda d: (d / "state.json").write_text((d / "state.json").read_text()[:-3]),
        "state.json is damaged",
    ),
    "a file gone": (lambda d: (d / "state.json").unlink(), "state.json is missing"),
    "no manifest": (lambda d: (d / "manifest.json").unlink(), "manifest.json cannot be read"),
    "foreign": (lambda d: (d / "manifest.json").write_text('{"weights": 3}'), "is not a checkpoint's"),
    "newer": (lambda d: manifest_of(d, format=99, sea_agent="9.0"), "format 99, written by sea-agent 9.0"),
}


def rewritten(directory: Path, state: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Other files with the checksums that belong to them."""
    (directory / "state.json").write_text(json.dumps(state))
    save_file(tensors, directory / "tensors.safetensors")
    names = ("state.json", "tensors.safetensors")
    manifest_of(directory, files={name: sha256((directory / name).read_bytes()).hexdigest() for name in names})


ONE = {"000000": torch.ones(3)}
TENSOR = ["tensor", "000000"]
DAMAGES |= {
    "of other settings": (
        lambda d: manifest_of(d, settings={"seed": 1}),
        "other settings (seed is 1 there and 0 here)",
    ),
    "settings that are none": (lambda d: manifest_of(d, settings=3), "is not a checkpoint's"),
    "no settings": (lambda d: manifest_of(d, settings=None), "is not a checkpoint's"),
    "no checksums": (lambda d: manifest_of(d, files={}), "state.json is damaged"),
    "not an object": (lambda d: rewritten(d, ["list"], {}), "holds no state of a run"),
    "an empty list": (lambda d: rewritten(d, {"a": []}, {}), "state.json has [] in it"),
    "an unknown mark": (lambda d: rewritten(d, {"a": ["set", 1]}, {}), "state.json has ['set', 1] in it"),
    "items that are no pairs": (lambda d: rewritten(d, {"a": ["items", 3]}, {}), "has ['items', 3] in it"),
    "a key that is a list": (
        lambda d: rewritten(d, {"a": ["items", [["list"], 3]]}, {}),
        "has ['items', [['list'], 3]]",
    ),
    "a tensor missing": (lambda d: rewritten(d, {"a": TENSOR}, {}), "has ['tensor', '000000'] in it"),
    "a tensor twice": (lambda d: rewritten(d, {"a": TENSOR, "b": TENSOR}, ONE), "has ['tensor', '000000'] in it"),
    "a tensor without a name": (lambda d: rewritten(d, {"a": ["tensor"]}, ONE), "has ['tensor'] in it"),
    "a tensor too many": (
        lambda d: rewritten(d, {}, ONE),
        "tensors.safetensors holds 1 tensors that state.json does not",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_checkpoint_is_refused_by_name_and_the_one_before_offered(damage: str, tmp_path: Path) -> None:
    spoil, complaint = DAMAGES[damage]
    write(tmp_path, 1, 2, 3, state={"tensor": torch.ones(3)}, keep=3)
    spoil(tmp_path / "round-000003")
    with pytest.raises(UserError) as caught:
        read_checkpoint(tmp_path, {"seed": 0})
    assert complaint in str(caught.value)
    assert "round-000003" in str(caught.value)
    assert "--checkpoint round-000002" in str(caught.value)
    spoil(tmp_path / "round-000002")
    with pytest.raises(UserError, match="--checkpoint round-000001"):
        read_checkpoint(tmp_path, {"seed": 0})
    spoil(tmp_path / "round-000001")
    with pytest.raises(UserError, match="start a new run"):
        read_checkpoint(tmp_path, {"seed": 0})


def test_a_checkpoint_that_cannot_be_written_is_told_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunFailure, match=r"No space left.*sea-agent resume"):
        write(tmp_path, 2)
    found = read_checkpoint(tmp_path, {})
    assert found is not None
    assert found.name == "round-000001"
    assert names(tmp_path) == ["round-000001"]
