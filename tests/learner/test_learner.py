"""One round of preference learning: what changes the weights, what must not, and what is refused."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_learners import (
    largest_difference,
    preferences_of,
    reported_by,
    rows_of_preferences,
    state_of,
    weights_of,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from learner.learner import PreferenceLearner
from sea_agent.config import LearnerConfig, PolicyConfig
from sea_agent.errors import RunFailure, UnfitState
from sea_agent.pretrained import load_policy, load_tokenizer
from sea_agent.types import REFERENCE_VERSION, Preference
from sea_agent.weights import checksum

LearnerOf = Callable[..., PreferenceLearner]
ROOT = Path(__file__).parents[2]
ROWS = preferences_of(10)


def trained(learner: PreferenceLearner, preferences: list[Preference], rounds: int = 1) -> dict[str, torch.Tensor]:
    for _ in range(rounds):
        learner.step([replace_version(row, learner.version) for row in preferences])
    return weights_of(learner)


def replace_version(row: Preference, version: int) -> Preference:
    """The row as if sampled by ``version``, unless it is to stay old."""
    old = version - 1
    return replace(
        row, chosen=replace(row.chosen, policy_version=old), rejected=replace(row.rejected, policy_version=old)
    )


@pytest.fixture
def stale_learner_of(learner_of: LearnerOf) -> LearnerOf:
    """Learners that accept responses of the version before, whose log-probabilities are not compared."""
    return lambda **settings: learner_of(**({"max_staleness": 1} | settings))


# --- what a step does ------------------------------------------------------------------------------------------------


def test_a_step_raises_the_implicit_reward_of_the_chosen_responses(stale_learner_of: LearnerOf) -> None:
    learner = stale_learner_of(learning_rate=1e-2)
    rows = rows_of_preferences(ROWS)
    trained(learner, ROWS, rounds=3)
    rewards = torch.tensor(
        [
            sum(tokens) - reference
            for tokens, reference in zip(learner.policy_logprobs(rows), learner.reference_logprobs(rows), strict=True)
        ]
    )
    assert (rewards[0::2] > rewards[1::2]).all()


@pytest.mark.parametrize("loss", ["dpo", "ipo", "slic", "simpo", "rpo"])
def test_first_step_reports_the_loss_of_the_untrained_policy(stale_learner_of: LearnerOf, loss: str) -> None:
    settings: dict[str, Any] = {"loss": loss, "beta": 0.5, "rpo_nll_weight": 0.2, "simpo_margin": 1.0}
    learner = stale_learner_of(**settings)
    scores = learner.policy_logprobs(rows_of_preferences(ROWS))
    means = torch.tensor([sum(score) / len(score) for score in scores], dtype=torch.float64)
    half = torch.tensor(2.0).log()
    expected = {
        "dpo": half,
        "ipo": torch.tensor(1.0),
        "slic": torch.tensor(1.0),
        "simpo": -torch.nn.functional.logsigmoid(0.5 * (means[0::2] - means[1::2]) - 1.0).mean(),
        "rpo": half - 0.2 * means[0::2].mean(),
    }
    assert learner.step(ROWS)["loss"] == pytest.approx(float(expected[loss]), rel=1e-5)


def gradient(learner: PreferenceLearner, preferences: list[Preference]) -> dict[str, torch.Tensor]:
    """AdamW's first moment after one round: a multiple of the gradient, in which rounding stays rounding."""
    learner.step(preferences)
    return state_of(learner)["training"]["exp_avg"]


@pytest.mark.parametrize("settings", [{}, {"loss": "rpo"}, {"loss": "simpo", "beta": 2.0}, {"lora": {}}])
def test_the_micro_batch_changes_rounding_only(stale_learner_of: LearnerOf, settings: dict[str, Any]) -> None:
    whole = gradient(stale_learner_of(micro_batch=64, **settings), ROWS)
    for size in (1, 4):
        assert largest_difference(gradient(stale_learner_of(micro_batch=size, **settings), ROWS), whole) < 1e-6
    assert largest_difference(gradient(stale_learner_of(**settings), ROWS[:9]), whole) > 1e-4


def test_a_weight_of_two_counts_like_the_row_twice(stale_learner_of: LearnerOf) -> None:
    twice = gradient(stale_learner_of(), [*ROWS, ROWS[0]])
    weighted = [replace(ROWS[0], weight=2.0), *ROWS[1:]]
    assert largest_difference(gradient(stale_learner_of(), weighted), twice) < 1e-6
    assert largest_difference(gradient(stale_learner_of(), ROWS), twice) > 1e-4


def test_only_the_proportions_of_weights_matter(stale_learner_of: LearnerOf) -> None:
    scaled = [replace(row, weight=7.0) for row in ROWS]
    assert largest_difference(gradient(stale_learner_of(), scaled), gradient(stale_learner_of(), ROWS)) < 1e-6


def test_a_weight_of_zero_counts_like_no_row(stale_learner_of: LearnerOf) -> None:
    silenced = [*ROWS[:9], replace(ROWS[9], weight=0.0)]
    assert checksum(trained(stale_learner_of(), silenced)) == checksum(trained(stale_learner_of(), ROWS[:9]))


def test_a_negative_weight_is_refused(stale_learner_of: LearnerOf) -> None:
    with pytest.raises(ValueError, match=r"duel-0 has the negative weight -1"):
        stale_learner_of().step([replace(ROWS[0], weight=-1.0)])


def test_an_empty_round_counts_as_a_version_and_trains_nothing(stale_learner_of: LearnerOf) -> None:
    learner = stale_learner_of(schedule="cosine")
    before = checksum(weights_of(learner))
    assert learner.step([]) == {"pairs": 0.0}
    assert learner.version == 1
    assert checksum(weights_of(learner)) == before
    assert state_of(learner)["optimizer_steps"] == 0


def test_a_round_is_one_version_however_many_optimiser_steps(stale_learner_of: LearnerOf) -> None:
    learner = stale_learner_of(steps_per_round=4)
    learner.step(ROWS)
    assert learner.version == 1
    assert state_of(learner)["optimizer_steps"] == 4


def test_each_batch_of_a_round_is_stepped_on_by_itself(stale_learner_of: LearnerOf) -> None:
    together, apart = stale_learner_of(learning_rate=1e-2), stale_learner_of(learning_rate=1e-2)
    rows = reported_by(together, ROWS)  # only the first batch is of the present policy, so only that is compared
    means = together.step(rows, batches=3)
    parts = [apart.step(ROWS[start::3]) for start in range(3)]
    assert checksum(weights_of(together)) == checksum(weights_of(apart))
    assert (together.version, state_of(together)["optimizer_steps"]) == (1, 3)
    for name in ("loss", "accuracy", "margin", "grad_norm"):
        assert means[name] == pytest.approx(sum(part[name] for part in parts) / 3), name
    assert means["pairs"] == len(ROWS)
    assert together.step(ROWS[:2], batches=5)["pairs"] == 2
    assert state_of(together)["optimizer_steps"] == 5, "no step without a pair"


def test_the_learning_rate_follows_the_schedule(stale_learner_of: LearnerOf) -> None:
    learner = stale_learner_of(learning_rate=0.1, warmup_steps=1, schedule="cosine")
    rates = []
    for version in range(3):
        rates.append(learner.step([replace_version(row, version) for row in ROWS])["learning_rate"])
    assert rates == pytest.approx([0.05, 0.1, 0.1 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi / 9)).item())])


def test_the_reported_gradient_norm_is_the_one_before_clipping(stale_learner_of: LearnerOf) -> None:
    tight, loose = stale_learner_of(max_grad_norm=1e-3), stale_learner_of(max_grad_norm=1e3)
    assert tight.step(ROWS)["grad_norm"] == pytest.approx(loose.step(ROWS)["grad_norm"])


def test_the_same_calls_give_bit_identical_weights(stale_learner_of: LearnerOf) -> None:
    first, second = (trained(stale_learner_of(micro_batch=3), ROWS, rounds=3) for _ in range(2))
    assert checksum(first) == checksum(second)
    other = trained(stale_learner_of(micro_batch=3), preferences_of(10, seed=1), rounds=3)
    assert checksum(other) != checksum(first)


def test_small_updates_of_bfloat16_weights_are_not_lost(stale_learner_of: LearnerOf) -> None:
    learner = stale_learner_of(dtype="bfloat16", learning_rate=1e-5)
    before = {name: tensor.float() for name, tensor in weights_of(learner).items()}
    for version in range(20):
        learner.step([replace_version(row, version) for row in ROWS])
    name = "model.layers.0.mlp.up_proj.weight"
    moved = state_of(learner)["training"]["weights"][name] != before[name]
    assert moved.float().mean() > 0.99
    assert {tensor.dtype for tensor in weights_of(learner).values()} == {torch.bfloat16}


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_stale_response_is_refused_by_name(learner_of: LearnerOf) -> None:
    learner = learner_of(max_staleness=1)
    learner.step([])
    learner.step([])
    old = preferences_of(1, version=0)[0]
    with pytest.raises(RunFailure, match=r"response-0-0 .*version 0.*at version 2.*max_staleness=1"):
        learner.step([old])
    with pytest.raises(RunFailure, match="response-0-1"):
        learner.step([replace(old, chosen=replace(old.chosen, policy_version=1))])


def test_the_oldest_version_may_be_told(learner_of: LearnerOf) -> None:
    learner = learner_of(max_staleness=1)
    for _ in range(5):
        learner.step([])
    assert learner.step(preferences_of(1, version=2), oldest=2)["pairs"] == 1
    with pytest.raises(RunFailure, match=r"version 2.*at version 6.*imagined rounds not counted"):
        learner.step(preferences_of(1, version=2), oldest=3)


def test_a_response_just_young_enough_is_accepted(learner_of: LearnerOf) -> None:
    learner = learner_of(max_staleness=2)
    learner.step([])
    learner.step([])
    assert learner.step(preferences_of(2, version=0))["pairs"] == 2


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_a_sampler_that_disagrees_stops_the_run_before_any_update(learner_of: LearnerOf, error: float) -> None:
    learner = learner_of(max_logprob_gap=5e-4)
    before = checksum(weights_of(learner))
    with pytest.raises(RunFailure, match=r"disagree by .* nats per token at version 0.*max_logprob_gap=0.0005"):
        learner.step(reported_by(learner, ROWS, error=error))
    assert checksum(weights_of(learner)) == before
    assert learner.version == 0


@pytest.mark.parametrize(("dtype", "rounding", "mistake"), [("float32", 1e-4, 1e-3), ("bfloat16", 0.02, 0.1)])
def test_the_usual_limit_is_above_rounding_in_the_dtype_and_below_a_mistake(
    learner_of: LearnerOf, dtype: str, rounding: float, mistake: float
) -> None:
    usual = LearnerConfig().max_logprob_gap
    rows = reported_by(learner_of(dtype=dtype), ROWS, error=rounding)
    assert learner_of(dtype=dtype, max_logprob_gap=usual).step(rows)["logprob_gap"] == pytest.approx(rounding, rel=0.2)
    rows = reported_by(learner_of(dtype=dtype), ROWS, error=mistake)
    with pytest.raises(RunFailure, match=r"try sampler\.backend=hf.*learner\.lora\.targets.*policy\.dtype"):
        learner_of(dtype=dtype, max_logprob_gap=usual).step(rows)


def test_a_refused_round_leaves_no_gradient_behind(learner_of: LearnerOf) -> None:
    learner = learner_of()
    with pytest.raises(RunFailure):
        learner.step(reported_by(learner, preferences_of(5, seed=3), error=1.0))
    untouched = learner_of()
    for one in (learner, untouched):
        one.step(reported_by(one, ROWS))
    assert checksum(weights_of(learner)) == checksum(weights_of(untouched))


def test_a_sampler_that_agrees_passes_and_the_gap_is_reported(learner_of: LearnerOf) -> None:
    learner = learner_of()
    assert learner.step(reported_by(learner, ROWS))["logprob_gap"] < 1e-6
    learner = learner_of(max_logprob_gap=1.0)
    assert learner.step(reported_by(learner, ROWS, error=0.25))["logprob_gap"] == pytest.approx(0.25, abs=1e-5)


def test_the_gap_is_the_mean_over_tokens_of_all_micro_batches(learner_of: LearnerOf) -> None:
    learner = learner_of(max_logprob_gap=10.0, micro_batch=2)
    rows = reported_by(learner, ROWS)
    wrong = replace(rows[0].chosen, logprobs=tuple(value + 1.0 for value in rows[0].chosen.logprobs))
    tokens = sum(len(response) for _, response in rows_of_preferences(ROWS))
    gap = learner.step([replace(rows[0], chosen=wrong), *rows[1:]])["logprob_gap"]
    assert gap == pytest.approx(len(wrong.token_ids) / tokens, rel=1e-4)


def test_log_probabilities_of_an_older_version_are_not_compared(learner_of: LearnerOf) -> None:
    learner = learner_of(max_staleness=1)
    rows = reported_by(learner, ROWS, error=5.0)
    learner.step([])
    assert "logprob_gap" not in learner.step(rows)


def test_a_fresh_response_without_its_log_probabilities_is_refused(learner_of: LearnerOf) -> None:
    with pytest.raises(RunFailure, match=r"response-0-0 reports 0 log-probabilities for \d+ tokens"):
        learner_of().step(preferences_of(1, version=0))


# --- the reference ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"lora": {}}])
def test_the_reference_stays_where_the_policy_started(stale_learner_of: LearnerOf, settings: dict[str, Any]) -> None:
    learner = stale_learner_of(learning_rate=1e-2, **settings)
    rows = rows_of_preferences(ROWS)
    start = [sum(tokens) for tokens in learner.policy_logprobs(rows)]
    trained(learner, ROWS, rounds=2)
    assert learner.reference_logprobs(rows) == pytest.approx(start, abs=1e-4)
    assert [sum(tokens) for tokens in learner.policy_logprobs(rows)] != pytest.approx(start, abs=1e-2)


def test_scores_do_not_depend_on_how_rows_are_batched(learner_of: LearnerOf) -> None:
    rows = rows_of_preferences(ROWS)
    one, many = learner_of(micro_batch=1), learner_of(micro_batch=64)
    for left, right in zip(one.policy_logprobs(rows), many.policy_logprobs(rows), strict=True):
        assert left == pytest.approx(right, abs=1e-5)


def test_simpo_keeps_no_reference(learner_of: LearnerOf) -> None:
    with pytest.raises(ValueError, match="simpo keeps no reference"):
        learner_of(loss="simpo").reference_logprobs(rows_of_preferences(ROWS))


# --- what leaves the learner, and comes back -------------------------------------------------------------------------


def test_published_weights_carry_version_names_and_checksum(stale_learner_of: LearnerOf, policy_path: str) -> None:
    learner = stale_learner_of()
    learner.step(ROWS)
    update = learner.weights()
    assert update is not None
    assert update.version == 1
    assert update.checksum == checksum(update.tensors)
    names = [name for name, _ in load_policy(policy_path, "float32", "cpu").named_parameters()]
    assert list(update.tensors) == names


def test_published_weights_are_a_copy(stale_learner_of: LearnerOf) -> None:
    learner = stale_learner_of()
    update = learner.weights()
    assert update is not None
    learner.step(ROWS)
    assert checksum(update.tensors) == update.checksum
    assert checksum(weights_of(learner)) != update.checksum


def test_a_saved_policy_loads_and_scores_like_the_learner(stale_learner_of: LearnerOf, tmp_path: Path) -> None:
    learner = stale_learner_of()
    trained(learner, ROWS, rounds=2)
    learner.save_policy(tmp_path / "policy")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype="auto")
    assert checksum(dict(model.named_parameters())) == checksum(weights_of(learner))
    assert model.generation_config.eos_token_id == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").eos_token == "<end>"
    again = PreferenceLearner(PolicyConfig(path=str(tmp_path / "policy")), LearnerConfig(), total_steps=1)
    rows = rows_of_preferences(ROWS)
    assert again.policy_logprobs(rows) == learner.policy_logprobs(rows)


def test_tied_weights_are_published_once_and_saved_whole(policy_path: str, tmp_path: Path) -> None:
    settings = LlamaConfig.from_pretrained(policy_path, tie_word_embeddings=True)
    LlamaForCausalLM(settings).save_pretrained(tmp_path / "tied")
    load_tokenizer(policy_path).save_pretrained(tmp_path / "tied")
    learner = PreferenceLearner(
        PolicyConfig(path=str(tmp_path / "tied")), LearnerConfig(learning_rate=1e-2, max_staleness=1), total_steps=1
    )
    learner.step(ROWS)
    assert "lm_head.weight" not in weights_of(learner)
    learner.save_policy(tmp_path / "saved")
    model = load_policy(str(tmp_path / "saved"), "float32", "cpu")
    assert torch.equal(model.lm_head.weight, weights_of(learner)["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    "settings",
    [{}, {"lora": {}}, {"dtype": "bfloat16"}, {"schedule": "cosine", "warmup_steps": 3, "steps_per_round": 2}],
    ids=["full", "lora", "bfloat16", "schedule"],
)
def test_a_restored_learner_goes_on_bit_identically(
    stale_learner_of: LearnerOf, tmp_path: Path, settings: dict[str, Any]
) -> None:
    first = stale_learner_of(**settings)
    trained(first, ROWS, rounds=2)
    torch.save(state_of(first), tmp_path / "state.pt")
    second = stale_learner_of(**settings)
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.version == 2
    rows = [replace_version(row, 2) for row in preferences_of(6, seed=9)]
    assert second.step(rows) == first.step(rows)
    assert checksum(weights_of(second)) == checksum(weights_of(first))


def test_a_learner_restored_without_its_moments_goes_on_differently(stale_learner_of: LearnerOf) -> None:
    first = stale_learner_of()
    trained(first, ROWS, rounds=2)
    state = state_of(first)
    for moment in state["training"]["exp_avg"].values():
        moment.zero_()
    second = stale_learner_of()
    second.load_state(state)
    rows = [replace_version(row, 2) for row in ROWS]
    for learner in (first, second):
        learner.step(rows)
    assert largest_difference(weights_of(first), weights_of(second)) > 1e-4


def test_a_state_is_a_copy(stale_learner_of: LearnerOf) -> None:
    learner = stale_learner_of()
    state = state_of(learner)
    before = checksum(state["training"]["weights"])
    learner.step(ROWS)
    assert checksum(state["training"]["weights"]) == before


def test_a_state_of_other_parameters_is_refused(stale_learner_of: LearnerOf) -> None:
    with pytest.raises(UnfitState, match=r"learner\.training\.weights: missing .*lora_A"):
        stale_learner_of(lora={}).load_state(state_of(stale_learner_of()))


@pytest.mark.parametrize("part", ["weights", "exp_avg", "exp_avg_sq"])
def test_a_state_of_other_shapes_is_refused_and_changes_nothing(stale_learner_of: LearnerOf, part: str) -> None:
    learner = stale_learner_of()
    state, before = state_of(learner), checksum(weights_of(learner))
    name, tensor = next(reversed(state["training"][part].items()))
    state["training"][part][name] = tensor[:1]  # torch would copy it to every row
    state["training"]["weights"] = {key: value + 1 for key, value in state["training"]["weights"].items()}
    with pytest.raises(UnfitState, match=rf"learner\.training\.{part}\.{name}: is torch.float32 of shape \(1, "):
        learner.load_state(state)
    assert checksum(weights_of(learner)) == before


def test_the_torch_engine_does_not_load_deepspeed(policy_path: str) -> None:
    program = (
        "import sys; from learner.learner import PreferenceLearner; from sea_agent.config import *; "
        f"learner = PreferenceLearner(PolicyConfig(path={policy_path!r}), LearnerConfig(), total_steps=1); "
        "learner.step([]); learner.weights(); print('deepspeed' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


def test_the_rate_multiplies_the_learning_rate_of_the_round_alone(stale_learner_of: LearnerOf) -> None:
    """The first step of Adam is as long as its learning rate, whatever the size of the loss."""
    moved = []
    for rate in (1.0, 0.25, 0.0):
        learner = stale_learner_of()
        before = learner.weights()
        assert learner.step(ROWS, rate)["learning_rate"] == pytest.approx(rate * 1e-3)
        after = learner.weights()
        assert before is not None
        assert after is not None
        moved.append(
            sum(float((after.tensors[name] - before.tensors[name]).norm()) ** 2 for name in after.tensors) ** 0.5
        )
    assert moved[1] == pytest.approx(moved[0] / 4, rel=1e-3)
    assert moved[2] == 0.0
    assert learner.step(ROWS)["learning_rate"] == pytest.approx(1e-3)


def test_kl_is_the_mean_log_ratio_of_the_policys_own_responses_before_the_round(learner_of: LearnerOf) -> None:
    learner = learner_of(max_staleness=9)
    learner.step([])  # so that the responses are not of the present version, whose log-probabilities would be compared
    own = [replace_version(row, 1) for row in ROWS]
    frozen = replace(own[0], rejected=replace(own[0].rejected, policy_version=REFERENCE_VERSION))
    learner.step(ROWS)
    rows = [frozen, *own[1:]]
    sides = [row.chosen for row in rows] + [row.rejected for row in rows[1:]]
    tokens = [(row.prompt.token_ids, row.chosen.token_ids) for row in rows]
    tokens += [(row.prompt.token_ids, row.rejected.token_ids) for row in rows[1:]]
    policy = [sum(row) for row in learner.policy_logprobs(tokens)]
    ratios = [now - before for now, before in zip(policy, learner.reference_logprobs(tokens), strict=True)]
    assert len(ratios) == len(sides) == 2 * len(ROWS) - 1
    assert learner.step(rows)["kl"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-4)
    assert abs(sum(ratios)) > 1e-3, "the control: the policy has moved"
    simple = learner_of(loss="simpo", max_staleness=9)
    simple.step([])
    assert "kl" not in simple.step(own)
