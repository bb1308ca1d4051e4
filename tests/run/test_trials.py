"""Models that do not fit are refused by check and by run, before anything is sampled, with their key and the remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification
from user_policies import make_reward_model, make_tokenizer

from actors.samplers import SamplerPool


def good(directory: Path) -> None:
    make_reward_model("llama", directory)


def foreign_tokenizer(directory: Path) -> None:
    make_reward_model("bert", directory, vocab_size=20)


def damaged(directory: Path) -> None:
    make_reward_model("bert", directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    model.bert.embeddings.LayerNorm.weight.data[0] = torch.nan
    model.save_pretrained(directory)


def short(directory: Path) -> None:
    make_reward_model("roberta", directory, max_position_embeddings=12)


def refusing(directory: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('only in pairs') }}"
    make_reward_model("llama", directory, tokenizer)


@pytest.fixture
def ask(
    tmp_path: Path,
    policy_dir: Callable[[str], Path],
    write_jsonl: Callable[..., Path],
    sea_agent: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """``ask(command, section, make)``: a command with the model that ``make`` makes in that section."""
    write_jsonl([{"prompt": "w1 w2"}, {"prompt": "w3"}, {"prompt": "w4 w5 w6 w7 w8 w9"}])
    (tmp_path / "mine.py").write_text("def compare(duels):\n    return [0.9] * len(duels)\n")

    def sample(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("nothing may be sampled")

    monkeypatch.setattr(SamplerPool, "begin", sample)

    def run(command: str, section: str, make: Callable[[Path], None], **changes: Any) -> Any:
        make(tmp_path / "model")
        model = {"kind": "reward_model", "path": "model"}
        config: dict[str, Any] = {
            "batch_size": 2,
            "policy": {"path": str(policy_dir("llama"))},
            "prompts": {"path": "prompts.jsonl"},
            "sampler": {"candidates": 3, "max_new_tokens": 6},
            "oracle": {"kind": "python", "target": "mine.py:compare"},
            "budget": {"oracle_queries": 4},
        }
        config |= {
            "oracle": {"oracle": model},
            "evaluation.judge": {"evaluation": {"prompts_path": "prompts.jsonl", "judge": model}},
            "posterior.encoder_path": {"posterior": {"features": "encoder", "encoder_path": "model"}},
        }[section]
        (tmp_path / "mine.yaml").write_text(json.dumps(config | changes))
        done = sea_agent(command, "mine.yaml", *(("--out", "out") if command == "run" else ()))
        assert "Traceback" not in done.err
        return done

    return run


SECTIONS = {"oracle": "oracle.path", "evaluation.judge": "evaluation.judge.path", "posterior.encoder_path": None}
UNFIT: list[tuple[str, Callable[[Path], None], str]] = [
    *((section, foreign_tokenizer, "the tokenizer has 32 tokens, but the model has only 20") for section in SECTIONS),
    ("oracle", damaged, "The weights of the model are damaged"),
    ("evaluation.judge", damaged, "The weights of the model are damaged"),
    ("posterior.encoder_path", damaged, "The weights of the encoder are damaged"),
    *((section, short, "the prompt 'w4 w5 w6 w7 w8 w9' has 6 tokens") for section in ("oracle", "evaluation.judge")),
    *((section, refusing, "refuses the prompt 'w1 w2'") for section in ("oracle", "evaluation.judge")),
]


@pytest.mark.parametrize(("section", "make", "words"), UNFIT)
def test_check_refuses_a_model_that_does_not_fit(
    section: str, make: Callable[[Path], None], words: str, ask: Callable[..., Any]
) -> None:
    done = ask("check", section, make)
    assert done.code == 2, done.out
    assert f"{SECTIONS[section] or section}=model: " in done.err
    assert words in done.err.replace("\n", " ")


@pytest.mark.parametrize("section", SECTIONS)
def test_check_accepts_a_model_that_fits(section: str, ask: Callable[..., Any]) -> None:
    """The control: nothing above is refused for another reason."""
    assert ask("check", section, good).code == 0
    assert ask("check", section, lambda directory: None).code == 0


def test_run_refuses_it_before_anything_is_sampled_and_leaves_no_directory(
    ask: Callable[..., Any], tmp_path: Path
) -> None:
    assert ask("run", "oracle", damaged).code == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(AssertionError, match="nothing may be sampled"):
        ask("run", "oracle", good)


def test_an_encoder_that_is_not_used_is_not_loaded(ask: Callable[..., Any], tmp_path: Path) -> None:
    passive = {"selection": {"rule": "passive"}}
    assert ask("check", "posterior.encoder_path", foreign_tokenizer, **passive).code == 0
