"""DeepSpeed equals plain torch: every ZeRO stage with one rank, and two real ranks over gloo."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import rank_worker
import torch
import torch.distributed as dist
from tiny_learners import (
    DEADLINE_SECONDS,
    largest_difference,
    make_learner,
    preferences_of,
    reported_by,
    rows_of_preferences,
    state_of,
    weights_of,
)

from learner.learner import PreferenceLearner
from sea_agent.errors import RunFailure, UnfitState, UserError
from sea_agent.pretrained import load_policy
from sea_agent.weights import checksum

LearnerOf = Callable[..., PreferenceLearner]
ROOT = Path(__file__).parents[2]
SHARED = rank_worker.SHARED
SHORT = ("zero0", "zero3", "moved-zero0", "moved-zero3")
"""Of two ranks, the cases outside `make soak`."""


def assert_equal_rounds(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert mine.keys() == other.keys()
        # Of the gap, a rounding error in itself, only the size can agree; the mean log-ratio is a small difference of
        # sums, which are rounded at their own size.
        for name, rounding in (("logprob_gap", 1e-6), ("kl", 1e-5)):
            assert mine.pop(name) == pytest.approx(other.pop(name), abs=rounding)
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-6)


def assert_equal_states(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    assert found["version"] == expected["version"]
    assert found["optimizer_steps"] == expected["optimizer_steps"]
    assert found["training"]["optimizer_steps"] == expected["training"]["optimizer_steps"]
    for part in ("weights", "exp_avg", "exp_avg_sq"):
        assert largest_difference(found["training"][part], expected["training"][part]) < tolerance


# --- one rank --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "lora"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_three_rounds_equal_torch(learner_of: LearnerOf, stage: int, lora: dict[str, int] | None) -> None:
    torch_learner = learner_of(**SHARED, lora=lora)
    learner = learner_of(**SHARED, lora=lora, engine="deepspeed", zero_stage=stage)
    assert_equal_rounds(rank_worker.rounds(learner), rank_worker.rounds(torch_learner))
    assert largest_difference(weights_of(learner), weights_of(torch_learner)) < 1e-5
    assert_equal_states(state_of(learner), state_of(torch_learner), tolerance=1e-5)


def test_other_rows_give_other_weights(learner_of: LearnerOf) -> None:
    learner = learner_of(**SHARED, engine="deepspeed")
    torch_learner = learner_of(**SHARED)
    rows = preferences_of(7)
    learner.step(reported_by(learner, rows))
    torch_learner.step(reported_by(torch_learner, rows[:6]))
    assert largest_difference(weights_of(learner), weights_of(torch_learner)) > 5e-5


@pytest.mark.parametrize("stage", [2, 3])
def test_bfloat16_weights_follow_float32_masters_as_in_torch(learner_of: LearnerOf, stage: int) -> None:
    settings = {"dtype": "bfloat16", "max_logprob_gap": 0.1}
    learner, torch_learner = (
        learner_of(**SHARED, **settings, engine="deepspeed", zero_stage=stage),
        learner_of(**SHARED, **settings),
    )
    for one in (learner, torch_learner):
        rank_worker.rounds(one)
    assert {value.dtype for value in weights_of(learner).values()} == {torch.bfloat16}
    masters, others = (state_of(one)["training"]["weights"] for one in (learner, torch_learner))
    assert largest_difference(masters, others) < 1e-6
    assert largest_difference(masters, weights_of(learner)) > 1e-6


def test_bfloat16_below_stage_two_is_refused(learner_of: LearnerOf) -> None:
    with pytest.raises(UserError, match=r"learner\.zero_stage 2 or 3, not 1"):
        learner_of(dtype="bfloat16", engine="deepspeed", zero_stage=1)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_restored_learner_goes_on_bit_identically(learner_of: LearnerOf, stage: int) -> None:
    settings = {**SHARED, "engine": "deepspeed", "zero_stage": stage}
    first, second = learner_of(**settings), learner_of(**settings)
    rank_worker.rounds(first)
    second.load_state(state_of(first))
    rows = reported_by(first, preferences_of(5, seed=9))
    assert second.step(rows) == first.step(rows)
    assert checksum(weights_of(second)) == checksum(weights_of(first))


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [(0, "float32"), (1, "float32"), (2, "float32"), (3, "float32"), (2, "bfloat16"), (3, "bfloat16")],
)
def test_a_refused_round_leaves_weights_and_gradients_alone(learner_of: LearnerOf, stage: int, dtype: str) -> None:
    settings = {**SHARED, "engine": "deepspeed", "zero_stage": stage, "dtype": dtype, "max_logprob_gap": 0.1}
    refused, untouched = (learner_of(**settings) for _ in range(2))
    before = checksum(weights_of(refused))
    with pytest.raises(RunFailure, match="disagree"):
        refused.step(reported_by(refused, preferences_of(7, seed=5), error=1.0))
    assert checksum(weights_of(refused)) == before
    rows = reported_by(refused, preferences_of(7))
    assert refused.step(rows) == untouched.step(rows)
    assert checksum(weights_of(refused)) == checksum(weights_of(untouched))


def test_a_small_policy_reserves_little_memory(learner_of: LearnerOf) -> None:
    """By default stage 3 reserves a buffer for half a billion gradients."""

    def reserved() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    before = 0
    for _ in range(2):  # the first engine of a process also starts threads
        before = reserved()
        rank_worker.rounds(learner_of(**SHARED, engine="deepspeed", zero_stage=3))
    assert reserved() - before < 200_000_000


def test_waits_end_at_the_deadline(learner_of: LearnerOf) -> None:
    learner_of(engine="deepspeed")
    groups = dist.distributed_c10d._world.pg_map
    waits = {group._get_backend(torch.device("cpu")).options._timeout for group in groups}
    assert waits == {timedelta(seconds=DEADLINE_SECONDS)}


def test_a_rank_without_a_rendezvous_or_without_the_others_says_so() -> None:
    # In a process of its own, which has not joined a group yet.
    program = f"""
import torch
from learner.deepspeed_engine import join_ranks
for rendezvous in (None, "tcp://127.0.0.1:{free_port()}"):
    try:
        join_ranks(torch.device("cpu"), 0, 2, rendezvous, 1.0)
    except Exception as error:
        print(type(error).__name__, error)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    without, alone = done.stdout.splitlines()
    assert without.startswith("UserError learner.ranks=2 needs a rendezvous address")
    assert alone.startswith("RunFailure learner rank 0: the 2 ranks did not meet at tcp://127.0.0.1:")
    assert "within 1 s" in alone


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- two ranks -------------------------------------------------------------------------------------------------------


def cases(names: Iterable[str]) -> list[Any]:
    """Parameters of a test; those of the long form are marked so."""
    return [pytest.param(name, marks=[] if name in SHORT else pytest.mark.soak) for name in names]


@pytest.fixture(scope="module")
def two_ranks(policy_path: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """What two real processes leave after training together each case that a test asks for, and going on with what one
    began."""
    asked = {item.callspec.params.get("case") for item in request.session.items if hasattr(item, "callspec")}
    names = [name for name in (*rank_worker.CASES, *rank_worker.MOVED) if name in asked.union(SHORT)]
    out = tmp_path_factory.mktemp("ranks")
    alone = make_learner(policy_path, **SHARED)
    rank_worker.rounds(alone)
    torch.save(state_of(alone), out / "begun.pt")
    rendezvous = f"tcp://127.0.0.1:{free_port()}"
    places = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    ranks = [
        subprocess.Popen(
            [sys.executable, rank_worker.__file__, str(rank), rendezvous, policy_path, str(out), *names],
            env=os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(output[-3000:] for output in outputs)
    (out / "output.txt").write_text("".join(outputs))
    return out


def reported(out: Path, case: str) -> dict[str, Any]:
    return torch.load(out / f"{case}.pt", weights_only=True)


@pytest.mark.parametrize("case", cases(rank_worker.CASES))
def test_two_ranks_equal_torch(learner_of: LearnerOf, two_ranks: Path, case: str) -> None:
    found = reported(two_ranks, case)
    learner = learner_of(**SHARED, lora=rank_worker.CASES[case].get("lora"))
    assert_equal_rounds(found["metrics"], rank_worker.rounds(learner))
    assert largest_difference(found["weights"], weights_of(learner)) < 1e-5
    assert_equal_states(found["state"], state_of(learner), tolerance=1e-5)
    expected = learner.reference_logprobs(rows_of_preferences(preferences_of(2)))
    assert found["reference"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("case", cases(rank_worker.CASES))
def test_two_ranks_save_one_whole_policy(two_ranks: Path, case: str) -> None:
    model = load_policy(str(two_ranks / f"{case}-policy"), "float32", "cpu")
    assert checksum(dict(model.named_parameters())) == checksum(reported(two_ranks, case)["weights"])


# --- another number of ranks -----------------------------------------------------------------------------------------


def unbroken(learner_of: LearnerOf, more: int = 1) -> PreferenceLearner:
    """Plain torch that was never interrupted, so many rounds further."""
    learner = learner_of(**SHARED)
    rank_worker.rounds(learner)
    for number in range(more):
        rank_worker.another_round(learner, seed=9 + number)
    return learner


def assert_goes_on(learner: PreferenceLearner, expected: PreferenceLearner) -> None:
    assert learner.version == expected.version
    assert largest_difference(weights_of(learner), weights_of(expected)) < 1e-5
    assert_equal_states(state_of(learner), state_of(expected), tolerance=1e-5)


@pytest.mark.parametrize("onto", [{"zero_stage": 2}, {"zero_stage": 3}, {"engine": "torch"}], ids=str)
@pytest.mark.parametrize("case", cases(["zero2", "zero3"]))
def test_what_two_ranks_began_goes_on_with_one(
    learner_of: LearnerOf, two_ranks: Path, case: str, onto: dict[str, Any]
) -> None:
    learner = learner_of(**SHARED, **{"engine": "deepspeed"} | onto)
    learner.load_state(reported(two_ranks, case)["state"])
    rank_worker.another_round(learner)
    assert_goes_on(learner, unbroken(learner_of))


@pytest.mark.parametrize("case", cases(rank_worker.MOVED))
def test_what_one_process_began_goes_on_with_two_ranks(learner_of: LearnerOf, two_ranks: Path, case: str) -> None:
    found, expected = reported(two_ranks, case), unbroken(learner_of)
    assert largest_difference(found["weights"], weights_of(expected)) < 1e-5
    assert_equal_states(found["state"], state_of(expected), tolerance=1e-5)


@pytest.mark.parametrize("case", cases(["moved-zero2", "moved-zero3"]))
def test_from_one_to_two_ranks_and_back(learner_of: LearnerOf, two_ranks: Path, case: str) -> None:
    learner = learner_of(**SHARED, engine="deepspeed", **rank_worker.MOVED[case])
    learner.load_state(reported(two_ranks, case)["state"])
    rank_worker.another_round(learner, seed=10)
    assert_goes_on(learner, unbroken(learner_of, more=2))


@pytest.mark.parametrize("forgotten", ["exp_avg", "exp_avg_sq"])
def test_a_move_that_forgets_a_moment_is_seen(learner_of: LearnerOf, two_ranks: Path, forgotten: str) -> None:
    state = reported(two_ranks, "zero3")["state"]
    for value in state["training"][forgotten].values():
        value.zero_()
    learner = learner_of(**SHARED, engine="deepspeed", zero_stage=2)
    learner.load_state(state)
    rank_worker.another_round(learner)
    with pytest.raises(AssertionError):
        assert_goes_on(learner, unbroken(learner_of))


def test_a_state_of_other_parameters_is_refused_and_changes_nothing(learner_of: LearnerOf) -> None:
    learner = learner_of(**SHARED, engine="deepspeed", zero_stage=2)
    before = checksum(weights_of(learner))
    with pytest.raises(UnfitState, match=r"learner\.training\.weights: missing .*unknown .*lora_A"):
        learner.load_state(state_of(learner_of(**SHARED, engine="deepspeed", zero_stage=3, lora={"rank": 4})))
    assert checksum(weights_of(learner)) == before


@pytest.mark.parametrize("stage", [2, 3])
def test_a_state_of_other_shapes_is_refused_and_changes_nothing(learner_of: LearnerOf, stage: int) -> None:
    learner = learner_of(**SHARED, engine="deepspeed", zero_stage=stage)
    state, before = state_of(learner), checksum(weights_of(learner))
    name, tensor = next(reversed(state["training"]["exp_avg"].items()))
    state["training"]["exp_avg"][name] = tensor[:1]
    with pytest.raises(UnfitState, match=rf"learner\.training\.exp_avg\.{name}: is torch.float32 of shape \(1"):
        learner.load_state(state)
    assert checksum(weights_of(learner)) == before


# --- what two ranks say ----------------------------------------------------------------------------------------------


def test_every_rank_refuses_what_one_rank_saw(two_ranks: Path) -> None:
    refusals = [(two_ranks / f"refusal-{rank}.txt").read_text() for rank in range(2)]
    assert refusals[0] == refusals[1]
    assert "disagree by" in refusals[0]


def test_a_rank_whose_partner_ended_says_so(two_ranks: Path) -> None:
    message = (two_ranks / "alone.txt").read_text()
    assert message.startswith("learner rank 0: another of the 2 ranks has ended, or did not answer within 60 s")


def test_deepspeed_is_quiet(two_ranks: Path) -> None:
    lines = (two_ranks / "output.txt").read_text().splitlines()
    assert [line for line in lines if line.strip() and "Loading weights" not in line] == []
