"""A reward model is shown what was written: every architecture is read like the model alone, without padding."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from duels import duel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from user_policies import (
    CHAT_TEMPLATE,
    CONTEXT,
    DECODERS,
    ENCODERS,
    make_byte_tokenizer,
    make_reward_model,
    make_tokenizer,
)

from oracle import make_oracle
from oracle.base import Oracle, bradley_terry
from sea_agent.config import RewardModelOracleConfig
from sea_agent.errors import UserError
from sea_agent.features.reward_model import RewardModel
from sea_agent.types import Duel, Messages, Prompt

# Of many lengths, so that a batch is padded; w2 is the word that some configurations call their padding.
TEXTS = [("w1 w2", "w3", "w4 w5 w6 w2"), ("w7", "w4 w5 w6 w8 w9 w2", "w3 w3"), ("w2 w2 w1", "w2", "w5 w2 w2 w2")]
CHAT: Messages = (("system", "w9 w8"), ("user", "w1"), ("assistant", "w2 w2"), ("user", "w3 w4"))
# What the configuration calls the padding: nothing, the end token, the word w2. ModernBERT has to call something so.
CASES = [(one, named) for one in DECODERS for named in (None, 0, 5) if (one, named) != ("modernbert-decoder", None)]


def oracle_of(directory: Path, **settings: Any) -> Oracle:
    config = RewardModelOracleConfig(**{"kind": "reward_model", "path": str(directory), "batch": 4} | settings)
    return make_oracle(config, seed=0, device="cpu")


def duels(texts: Sequence[tuple[str, str, str]] = TEXTS, messages: Messages | None = None) -> list[Duel]:
    made = [duel(f"d{i}", first, second, prompt=prompt) for i, (prompt, first, second) in enumerate(texts)]
    return [dataclasses.replace(d, prompt=dataclasses.replace(d.prompt, messages=messages)) for d in made]


def written(turns: Sequence[tuple[str, str]]) -> str:
    """What ``CHAT_TEMPLATE`` makes of a chat."""
    roles = {"system": "w26", "user": "w27", "assistant": "w28"}
    return "".join(f"{roles[role]} {content} <end>" for role, content in turns)


@torch.no_grad()
def alone(directory: Path, *texts: str) -> float:
    """The reward of plain transformers for one input, which then has no padding to look for."""
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    model.config.pad_token_id = -1  # no token's, so that the last one is read
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return model(input_ids=torch.tensor([tokenizer(*texts).input_ids])).logits.item()


def expected(directory: Path, asked: Sequence[Duel], show: Callable[[Duel, str], Sequence[str]]) -> list[float]:
    return [
        bradley_terry(*(alone(directory, *show(d, response)) for response in (d.first.text, d.second.text)))
        for d in asked
    ]


def as_chat(d: Duel, response: str) -> tuple[str]:
    return (written([*(d.prompt.messages or [("user", d.prompt.text)]), ("assistant", response)]),)


def as_pair(d: Duel, response: str) -> tuple[str, str]:
    return d.prompt.text, response


def without_padding(architecture: str) -> Any:
    tokenizer = make_byte_tokenizer() if architecture == "qwen2" else make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.mark.parametrize(("architecture", "named"), CASES)
def test_a_decoder_is_read_at_its_last_token_whatever_is_called_padding(
    architecture: str, named: int | None, tmp_path: Path
) -> None:
    """The template ends with the end token, which stands in for the padding that the tokenizer lacks."""
    make_reward_model(architecture, tmp_path, without_padding(architecture), pad_token_id=named)
    verdicts = oracle_of(tmp_path).ask(duels())
    said = [verdict.probability for verdict in verdicts]
    assert said == pytest.approx(expected(tmp_path, duels(), as_chat), abs=1e-4)
    assert max(said) - min(said) > 0.01


@torch.no_grad()
def test_transformers_own_search_for_padding_would_read_another_token(tmp_path: Path) -> None:
    """The control of the test above: these models and texts tell one token early from right."""
    make_reward_model("llama", tmp_path, without_padding("llama"))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    model.config.pad_token_id = 0
    text = as_chat(duels()[0], "w3")[0]
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path)(text).input_ids])
    assert abs(model(input_ids=ids).logits.item() - alone(tmp_path, text)) > 0.1


@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE], ids=["pair", "chat"])
@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoder_pools_by_itself(architecture: str, template: str | None, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    make_reward_model(architecture, tmp_path, tokenizer)
    said = [verdict.probability for verdict in oracle_of(tmp_path).ask(duels())]
    assert said == pytest.approx(expected(tmp_path, duels(), as_chat if template else as_pair), abs=1e-4)
    assert max(said) - min(said) > 0.01


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_a_tokenizer_without_end_and_padding_serves_as_well(architecture: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    make_reward_model(architecture, tmp_path, tokenizer, pad_token_id=None)
    said = [verdict.probability for verdict in oracle_of(tmp_path).ask(duels())]
    assert said == pytest.approx(expected(tmp_path, duels(), as_pair), abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_the_messages_of_a_chat_go_through_the_models_own_template(architecture: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    make_reward_model(architecture, tmp_path, tokenizer)
    asked = duels(messages=CHAT)
    said = [verdict.probability for verdict in oracle_of(tmp_path).ask(asked)]
    assert said == pytest.approx(expected(tmp_path, asked, as_chat), abs=1e-4)
    assert oracle_of(tmp_path).evaluate([d.public() for d in asked]) == pytest.approx(said, abs=1e-6)
    assert said != pytest.approx(expected(tmp_path, duels(), as_chat), abs=1e-2), "the control: one turn of text"


def test_the_template_shows_no_more_and_no_less_than_it_says(tmp_path: Path) -> None:
    """The control of ``written``, which the expectations above rest on."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    chat = [{"role": role, "content": content} for role, content in CHAT]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == written(CHAT)


@pytest.mark.parametrize(("architecture", "limit"), [("llama", CONTEXT), ("roberta", CONTEXT - 2)])
def test_a_pair_beyond_the_context_is_refused_and_not_counted(architecture: str, limit: int, tmp_path: Path) -> None:
    """RoBERTa has a position for its padding, and one more that it never uses."""
    make_reward_model(architecture, tmp_path)
    oracle = oracle_of(tmp_path)
    full = " ".join(["w1"] * (limit - 2))
    asked = duels([(full, "w3 w4", "w5 w6")])
    said = [verdict.probability for verdict in oracle.ask(asked)]
    assert said == pytest.approx(expected(tmp_path, asked, as_pair), abs=1e-4)
    with pytest.raises(UserError, match=rf"'w1 w1 .*has {limit + 1} tokens .* reads at most {limit}"):
        oracle.ask(duels([("w2", "w3", "w5"), (full, "w3 w4", "w5 w6 w7")]))
    assert oracle.queries == 1


def test_roberta_cannot_read_one_token_more(tmp_path: Path) -> None:
    make_reward_model("roberta", tmp_path)
    with pytest.raises(RuntimeError, match="out of bounds"):
        alone(tmp_path, " ".join(["w1"] * (CONTEXT - 1)))


def prompt(text: str, messages: Messages | None = None) -> Prompt:
    return Prompt("p", text, (3,), messages)


def nan_in_weights(directory: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    model.score.weight.data[0, 0] = torch.nan
    model.save_pretrained(directory)


def test_damaged_weights_are_named_as_such(tmp_path: Path) -> None:
    nan_in_weights(make_reward_model("llama", tmp_path))
    for ask in (lambda o: o.ask(duels()), lambda o: o.try_on([prompt("w1 w2")], 4)):
        with pytest.raises(UserError, match=r"oracle.path=.*: gives the reward nan .* the model are damaged"):
            ask(oracle_of(tmp_path))


def test_the_tokenizer_of_a_model_with_more_words_is_refused_at_once(tmp_path: Path) -> None:
    make_reward_model("llama", tmp_path, vocab_size=20)
    with pytest.raises(UserError, match="the tokenizer has 32 tokens, but the model has only 20"):
        oracle_of(tmp_path)


def test_a_token_that_was_added_to_the_tokenizer_only_is_refused_when_it_is_used(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["w99"])
    make_reward_model("llama", tmp_path, tokenizer, vocab_size=32)
    oracle = oracle_of(tmp_path)
    oracle.try_on([prompt("w1 w2")], 4)
    with pytest.raises(UserError, match="makes token 32, but the model has only 32 tokens"):
        oracle.ask(duels([("w1", "w99", "w2")]))
    assert oracle.queries == 0


def test_a_template_that_refuses_the_roles_of_a_prompt_is_named_with_them(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    make_reward_model("llama", tmp_path, tokenizer)
    oracle = oracle_of(tmp_path)
    oracle.try_on([prompt("w1"), prompt("w3", CHAT)], 4)
    tool = (("user", "w1"), ("tool", "w2"))
    with pytest.raises(UserError, match=r"refuses the prompt 'w4' with the roles user, tool, assistant \(tools are"):
        oracle.try_on([prompt("w1"), prompt("w4", tool)], 4)


def test_a_template_that_leaves_the_response_out_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }} <end>"
    with pytest.raises(UserError, match="the same tokens of a prompt with two different responses"):
        oracle_of(make_reward_model("llama", tmp_path, tokenizer)).try_on([prompt("w1 w2")], 4)


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{{ messages | dictsort }}", "{{ messages[0].content.nothing() }}"]
)
def test_whatever_a_template_raises_is_told_with_the_prompt(template: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match="refuses the prompt 'w1 w2'"):
        oracle_of(make_reward_model("llama", tmp_path, tokenizer)).try_on([prompt("w1 w2")], 4)


@pytest.mark.parametrize(
    ("template", "chat", "lost"),
    [
        ("w28 {{ messages[-1].content }} <end>", None, "user's message 'w1 w2'"),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }} {% endfor %}", CHAT, "system's message"),
    ],
)
def test_a_template_that_loses_a_message_is_refused(
    template: str, chat: Messages | None, lost: str, tmp_path: Path
) -> None:
    """The model would give the same reward to a response to another prompt."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=f"does not show it the text of the {lost}"):
        oracle_of(make_reward_model("llama", tmp_path, tokenizer)).try_on([prompt("w1 w2", chat)], 4)


def test_a_model_that_fails_on_a_later_response_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BART counts end tokens, of which a response may hold one."""
    oracle = oracle_of(make_reward_model("llama", tmp_path))
    oracle.try_on([prompt("w1 w2")], 4)

    def count_ends(*_arguments: Any) -> list[float]:
        raise ValueError("All examples must have the same number of <eos> tokens.")

    monkeypatch.setattr(RewardModel, "_scores", count_ends)
    with pytest.raises(UserError, match=r"fails on responses to the prompt .* same number of <eos> tokens"):
        oracle.ask(duels())
    assert oracle.queries == 0


def test_a_prompt_that_leaves_no_room_for_a_response_is_refused_on_trial(tmp_path: Path) -> None:
    make_reward_model("llama", tmp_path)
    words = " ".join(["w1"] * 60)
    oracle_of(tmp_path).try_on([prompt("w2"), prompt(words)], 4)
    with pytest.raises(UserError, match=r"'w1 w1 .* 60 tokens .*max_new_tokens=5 at most 59 fit .* context of 64"):
        oracle_of(tmp_path).try_on([prompt("w2"), prompt(words)], 5)


def test_a_model_that_padding_disturbs_is_refused_unless_it_is_never_padded(tmp_path: Path) -> None:
    """XLNet pools at the last place of a row, padding or not."""
    make_reward_model("xlnet", tmp_path, d_model=32, n_layer=1, n_head=2, d_inner=32)
    with pytest.raises(UserError, match=r"another reward beside a longer one, .* Set oracle.batch=1"):
        oracle_of(tmp_path).try_on([prompt("w1 w2")], 4)
    oracle_of(tmp_path, batch=1).try_on([prompt("w1 w2")], 4)


def test_a_judge_is_named_by_its_own_key(tmp_path: Path) -> None:
    make_reward_model("llama", tmp_path, vocab_size=20)
    config = RewardModelOracleConfig(kind="reward_model", path=str(tmp_path))
    with pytest.raises(UserError, match=r"^evaluation\.judge\.path="):
        make_oracle(config, seed=0, device="cpu", key="evaluation.judge")
