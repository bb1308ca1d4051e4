"""A user's own policy, prompts and oracle: other architectures, plain and chat prompts, LoRA, every loss."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from user_policies import CHAT_TEMPLATE, make_reward_model, make_tokenizer

from sea_agent.persistence.ledger import Ledger
from sea_agent.types import Duel

ORACLE = """
def compare(duels):
    return [1.0 if duel["first"].count("w7") > duel["second"].count("w7") else 0.0 for duel in duels]
"""


@pytest.fixture
def workplace(tmp_path: Path, write_jsonl: Callable[..., Path]) -> Path:
    """A directory with prompts, held-out prompts and an oracle, as a user would have it."""
    write_jsonl([{"prompt": f"w{a} w{b}"} for a in range(6) for b in range(6)])
    write_jsonl([{"prompt": f"w{a} w2 w{b}"} for a in range(5) for b in range(5)], "heldout.jsonl")
    (tmp_path / "mine.py").write_text(ORACLE)
    return tmp_path


def config_for(policy: Path, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "batch_size": 8,
        "policy": {"path": str(policy)},
        "prompts": {"path": "prompts.jsonl"},
        "sampler": {"candidates": 4, "max_new_tokens": 8, "temperature": 1.0},
        "selection": {"rule": "sea_bai"},
        "posterior": {"members": 4, "ensemble": {"hidden": 16}},
        "oracle": {"kind": "python", "target": "mine.py:compare"},
        "learner": {"learning_rate": 1e-3},
        "budget": {"oracle_queries": 24},
        "evaluation": {"prompts_path": "heldout.jsonl"},
    }
    for section, keys in changes.items():
        config[section] = config.get(section, {}) | keys if isinstance(keys, dict) else keys
    return config


@pytest.fixture
def run_and_load(workplace: Path, sea_agent: Callable[..., Any]) -> Callable[[dict], tuple[dict[str, Any], Any]]:
    """Run a configuration by the command line from the user's directory; gives the summary and the loaded policy."""

    def run(config: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        (workplace / "mine.yaml").write_text(json.dumps(config))
        done = sea_agent("run", "mine.yaml", "--out", "out")
        assert done.code == 0, done.err
        out = workplace / "out" / "policy"
        before, after = (AutoTokenizer.from_pretrained(path) for path in (config["policy"]["path"], out))
        assert before("w3 w4").input_ids == after("w3 w4").input_ids != []
        summary = json.loads((workplace / "out" / "summary.json").read_text())
        return summary, AutoModelForCausalLM.from_pretrained(out)

    return run


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "qwen2"])
def test_a_users_policy_is_aligned_and_loads_again(
    architecture: str, run_and_load: Callable, policy_dir: Callable[[str], Path]
) -> None:
    before = AutoModelForCausalLM.from_pretrained(policy_dir(architecture)).state_dict()
    summary, model = run_and_load(config_for(policy_dir(architecture)))
    assert summary["oracle_queries"] == 24
    assert summary["win_rate"] is not None
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_the_shared_policy_directory_is_never_written_to(
    run_and_load: Callable, policy_dir: Callable[[str], Path]
) -> None:
    directory = policy_dir("llama")
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    run_and_load(config_for(directory, learner={"lora": {"rank": 2}, "learning_rate": 1e-2}))
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before


def test_lora_saves_a_merged_policy_under_the_base_names(
    run_and_load: Callable, policy_dir: Callable[[str], Path]
) -> None:
    before = AutoModelForCausalLM.from_pretrained(policy_dir("llama")).state_dict()
    config = config_for(policy_dir("llama"), learner={"lora": {"rank": 2}, "learning_rate": 1e-2})
    _, model = run_and_load(config)
    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert any("q_proj" in name for name in changed)
    assert not any("norm" in name or "embed" in name for name in changed)


@pytest.mark.parametrize("loss", ["ipo", "slic", "simpo", "rpo"])
def test_every_loss_runs_to_the_end(loss: str, run_and_load: Callable, policy_dir: Callable[[str], Path]) -> None:
    config = config_for(policy_dir("llama"), learner={"loss": loss, "learning_rate": 1e-3}, evaluation={"prompts": 4})
    summary, _ = run_and_load(config)
    assert summary["rounds"] == 3


def test_chat_prompts_go_through_the_template_and_the_oracle_reads_plain_text(
    run_and_load: Callable,
    policy_dir: Callable[[str], Path],
    workplace: Path,
    write_jsonl: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("chat")
    AutoModelForCausalLM.from_pretrained(policy_dir("llama")).save_pretrained(directory)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "w28 {% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}w27{% endif %}"
    )
    tokenizer.save_pretrained(directory)
    write_jsonl([{"prompt": [{"role": "user", "content": f"w{a} w1"}]} for a in range(8)])
    (workplace / "mine.py").write_text(
        "def compare(duels):\n"
        "    assert all(duel['prompt'].endswith(' w1') and 'w28' not in duel['prompt'] for duel in duels)\n"
        "    return [1.0] * len(duels)\n"
    )
    summary, _ = run_and_load(config_for(directory, evaluation={"prompts_path": None}))
    assert summary["oracle_queries"] == 24


def test_a_users_reward_model_judges_a_chat_as_plain_transformers_does(
    run_and_load: Callable,
    policy_dir: Callable[[str], Path],
    workplace: Path,
    write_jsonl: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Its tokenizer has no padding, and its template ends with the end token."""
    policy, judge = tmp_path_factory.mktemp("policy"), tmp_path_factory.mktemp("judge")
    AutoModelForCausalLM.from_pretrained(policy_dir("llama")).save_pretrained(policy)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + "{% if add_generation_prompt %}w28{% endif %}"
    tokenizer.save_pretrained(policy)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.pad_token = None
    make_reward_model("qwen3", judge, tokenizer, pad_token_id=None)
    roles = ("system", "user", "assistant", "user")
    chats = [[{"role": role, "content": f"w{a} w{index}"} for index, role in enumerate(roles)] for a in range(8)]
    write_jsonl([{"prompt": chat} for chat in chats])
    config = config_for(policy, selection={"rule": "passive"}, evaluation={"prompts_path": None})
    run_and_load(config | {"oracle": {"kind": "reward_model", "path": str(judge)}})

    model = AutoModelForSequenceClassification.from_pretrained(judge).eval()

    def reward(duel: Duel, response: str) -> float:
        turns = [{"role": role, "content": content} for role, content in duel.prompt.messages or ()]
        chat = [*turns, {"role": "assistant", "content": response}]
        ids = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False)).input_ids
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids])).logits.item()

    with Ledger(workplace / "out" / "ledger.sqlite") as ledger:
        rows = ledger.rows()
    assert len(rows) == 24
    for duel, verdict in rows:
        gap = torch.tensor(reward(duel, duel.first.text) - reward(duel, duel.second.text))
        assert verdict is not None
        assert verdict.probability == pytest.approx(torch.sigmoid(gap).item(), abs=1e-4)


def test_a_policy_that_comes_with_sampling_settings_is_saved(
    run_and_load: Callable, policy_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    """transformers loads such settings and refuses to save them; the end of a run is no place to learn that."""
    directory = shutil.copytree(policy_dir("llama"), tmp_path / "settings")
    (directory / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 0}')
    _, model = run_and_load(config_for(directory, evaluation={"prompts_path": None}))
    assert model.generation_config.eos_token_id == 0


def test_fewer_prompts_than_a_round_holds_are_enough(
    run_and_load: Callable, policy_dir: Callable[[str], Path], write_jsonl: Callable[..., Path], workplace: Path
) -> None:
    write_jsonl([{"prompt": "w1 w2"}, {"prompt": "w3"}, {"prompt": "w4"}])
    summary, _ = run_and_load(config_for(policy_dir("llama"), evaluation={"prompts_path": None}))
    assert summary["oracle_queries"] == 24


def test_a_run_learns_what_the_users_oracle_likes(run_and_load: Callable, policy_dir: Callable[[str], Path]) -> None:
    """The oracle likes w7; after 160 answers the policy says it more often than the reference does."""
    config = config_for(
        policy_dir("llama"),
        selection={"rule": "passive"},
        learner={"learning_rate": 5e-3, "beta": 0.1},
        budget={"oracle_queries": 160},
        batch_size=16,
    )
    summary, _ = run_and_load(config)
    assert summary["win_rate_ci"][0] > 0.5
