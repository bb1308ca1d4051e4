"""Losses and gradients against TRL's own trainers: the pair formulas, and the whole way from tokens to gradients."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_learners import END, FIRST_WORD, rows_of_preferences
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOTrainer

from learner.losses import LOSSES, Pairs, PreferenceLoss
from learner.objective import evaluate, micro_batch
from learner.sequences import token_logprobs
from sea_agent.config import LearnerConfig
from sea_agent.pretrained import load_policy, load_tokenizer
from sea_agent.types import LabelSource, Preference, Prompt, Response

PAIRS = 7


def trl_pair_loss(chosen: torch.Tensor, rejected: torch.Tensor, **settings: Any) -> torch.Tensor:
    """TRL's own formula on two scores; with log-ratios to the reference as scores it is the reference-based loss."""
    defaults = {"alpha": 0.0, "label_smoothing": 0.0, "accelerator": SimpleNamespace(device="cpu")}
    return CPOTrainer.cpo_loss(SimpleNamespace(**(defaults | settings)), chosen, rejected)[0]


@pytest.mark.parametrize(
    ("name", "options", "trl"),
    [
        ("dpo", {}, {"loss_type": "sigmoid"}),
        ("dpo", {"label_smoothing": 0.15}, {"loss_type": "sigmoid", "label_smoothing": 0.15}),
        ("ipo", {}, {"loss_type": "ipo"}),
        ("slic", {}, {"loss_type": "hinge"}),
        ("simpo", {"margin": 0.8}, {"loss_type": "simpo", "simpo_gamma": 0.8}),
    ],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_value_and_gradient_of_each_pair_equal_trl(
    name: str, options: dict[str, Any], trl: dict[str, Any], beta: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    chosen, rejected, reference_chosen, reference_rejected = -20 * torch.rand(
        4, PAIRS, dtype=torch.float64, generator=generator
    )
    lengths = torch.arange(1, PAIRS + 1), torch.arange(PAIRS, 0, -1)
    results = []
    for ours in (True, False):
        policy = [chosen.clone().requires_grad_(), rejected.clone().requires_grad_()]
        if ours:
            pairs = Pairs(policy[0], policy[1], reference_chosen, reference_rejected, *lengths)
            loss = LOSSES[name](pairs, beta=beta, **options)
        elif name == "simpo":
            loss = trl_pair_loss(policy[0] / lengths[0], policy[1] / lengths[1], beta=beta, **trl)
        else:
            loss = trl_pair_loss(policy[0] - reference_chosen, policy[1] - reference_rejected, beta=beta, **trl)
        results.append((loss, *torch.autograd.grad(loss.sum(), policy)))
    for mine, theirs in zip(*results, strict=True):
        assert mine.shape == (PAIRS,)
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)


# Prompt, chosen and rejected words. Chosen responses are equally long, which is where both meanings of RPO agree.
TEXTS = [((3, 4), (5, 6, 7), (9,)), ((3, 4, 7, 8), (8, 8, 11), (9, 18, 3, 12)), ((10,), (4, 3, 12), (13, 14))]
UNEQUAL = [*TEXTS, ((5, 6), (7,), (8, 9))]


def as_preferences(texts: Sequence[tuple[tuple[int, ...], ...]]) -> list[Preference]:
    rows = []
    for index, (prompt_ids, *sides) in enumerate(texts):
        prompt = Prompt(str(index), "", prompt_ids)
        chosen, rejected = (Response("", prompt.id, "", (*ids, END), (), -1) for ids in sides)
        rows.append(Preference(str(index), prompt, chosen, rejected, LabelSource.ORACLE))
    return rows


def words(ids: tuple[int, ...]) -> str:
    return "".join(f" w{index - FIRST_WORD}" for index in ids)


class Setting:
    """One policy, one reference that differs from it, and TRL's trainer of both."""

    def __init__(self, path: str, directory: Path) -> None:
        self.policy = load_policy(path, "float32", "cpu")
        self.reference = load_policy(path, "float32", "cpu")
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for value in self.reference.parameters():
                value += 0.05 * torch.randn(value.shape, generator=generator)
        rows = [dict(zip(("prompt", "chosen", "rejected"), map(words, row), strict=True)) for row in UNEQUAL]
        settings = DPOConfig(output_dir=str(directory), use_cpu=True, bf16=False, report_to="none")
        self.trainer = DPOTrainer(
            model=self.policy,
            ref_model=self.reference,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(path),
        )
        self.policy.eval()

    def gradients(self, loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, list(self.policy.parameters())))

    def trl(self, count: int, beta: float, **weights: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        self.trainer.beta = beta
        self.trainer.loss_types, self.trainer.loss_weights = list(weights), list(weights.values())
        examples = [self.trainer.train_dataset[index] for index in range(count)]
        loss = self.trainer._compute_loss(self.policy, self.trainer.data_collator(examples), False)
        return loss.detach(), self.gradients(loss)

    def ours(self, count: int, **settings: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        preferences = as_preferences(UNEQUAL[:count])
        micro = micro_batch(preferences, 0, device="cpu")
        with torch.no_grad():
            scores = token_logprobs(self.reference, micro.batch).sum(1)
        micro = type(micro)(**(vars(micro) | {"reference_N": scores}))
        config = LearnerConfig(**settings)
        loss, _ = evaluate(self.policy, micro, config, PreferenceLoss(config), total_weight=count)
        return loss.detach(), self.gradients(loss)


@pytest.fixture(scope="module")
def setting(policy_path: str, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(policy_path, tmp_path_factory.mktemp("trl"))


def test_trl_sees_the_same_tokens(setting: Setting) -> None:
    rows = rows_of_preferences(as_preferences(UNEQUAL))
    seen = [
        (tuple(row["prompt_ids"]), tuple(row[f"{side}_ids"]))
        for row in setting.trainer.train_dataset
        for side in ("chosen", "rejected")
    ]
    assert seen == rows


@pytest.mark.parametrize(
    ("settings", "trl"),
    [
        ({"loss": "dpo"}, {"sigmoid": 1.0}),
        ({"loss": "slic"}, {"hinge": 1.0}),
        ({"loss": "ipo", "ipo_length_average": True}, {"ipo": 1.0}),
    ],
    ids=lambda value: str(value),
)
def test_loss_and_weight_gradients_of_a_batch_equal_trl(
    setting: Setting, settings: dict[str, Any], trl: dict[str, float]
) -> None:
    assert_same(setting.ours(len(UNEQUAL), beta=0.3, **settings), setting.trl(len(UNEQUAL), 0.3, **trl))


def test_rpo_equals_trl_when_the_chosen_responses_are_equally_long(setting: Setting) -> None:
    ours = setting.ours(len(TEXTS), loss="rpo", beta=0.3, rpo_nll_weight=0.2)
    assert_same(ours, setting.trl(len(TEXTS), 0.3, sigmoid=1.0, sft=0.2))


def test_rpo_weighs_pairs_where_trl_weighs_tokens(setting: Setting) -> None:
    ours, _ = setting.ours(len(UNEQUAL), loss="rpo", beta=0.3, rpo_nll_weight=0.2)
    trl, _ = setting.trl(len(UNEQUAL), 0.3, sigmoid=1.0, sft=0.2)
    assert abs(ours - trl) > 1e-3


def assert_same(ours: tuple[torch.Tensor, list[torch.Tensor]], trl: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    assert torch.allclose(ours[0], trl[0], rtol=1e-5, atol=1e-6)
    assert any(gradient.abs().max() > 1e-3 for gradient in ours[1])
    for mine, theirs in zip(ours[1], trl[1], strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)
