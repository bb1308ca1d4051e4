"""Bad input ends with exit code 2 and one message that names the place and the remedy, never a traceback."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers
from policy_zoo import make_policy_of
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from user_policies import make_byte_tokenizer, make_tokenizer

import actors.vllm_sampler
from sea_agent.errors import UserError
from sea_agent.persistence.ledger import Ledger

GOOD_ORACLE = "def compare(duels):\n    return [1.0] * len(duels)\n"


@pytest.fixture
def complain(
    tmp_path: Path,
    policy_dir: Callable[[str], Path],
    write_jsonl: Callable[..., Path],
    sea_agent: Callable[..., Any],
) -> Callable[..., str]:
    """Run a good set-up with changes, expect exit code 2, and return the message.

    ``check`` says the same, unless only the ``running`` tells: what the oracle answers, and where the run is written.
    """
    write_jsonl([{"prompt": "w1 w2"}, {"prompt": "w3"}])
    (tmp_path / "mine.py").write_text(GOOD_ORACLE)
    config = {
        "batch_size": 2,
        "policy": {"path": str(policy_dir("llama"))},
        "prompts": {"path": "prompts.jsonl"},
        "sampler": {"candidates": 3, "max_new_tokens": 6, "temperature": 1.0},
        "selection": {"rule": "passive"},
        "oracle": {"kind": "python", "target": "mine.py:compare"},
        "budget": {"oracle_queries": 4},
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(config))

    def run(*changes: str, expect: int = 2, running: bool = False) -> str:
        options = [part for change in changes for part in ("--set", change)]
        done = sea_agent("run", "mine.yaml", "--out", "out", *options)
        assert done.code == expect, done.out + done.err
        assert "Traceback" not in done.err
        if expect == 2:
            checked = sea_agent("check", "mine.yaml", *options)
            assert checked.code == (0 if running else 2), "only the running tells, or both do"
            assert running or (checked.err and done.err.endswith(checked.err))
        return done.err

    return run


def test_the_set_up_is_good_without_changes(complain: Callable[..., str]) -> None:
    """The control: nothing below fails for a reason of its own."""
    assert complain(expect=0) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("learner.learning_rat=1", ["mine.yaml", "learner.learning_rat", "learner.learning_rate"]),
        ("temprature=1", ["temprature", "sampler.temperature"]),
        ("budget.oracle_queries=0", ["budget.oracle_queries", "greater than 0"]),
        ("learner.loss=dop", ["learner.loss", "dpo"]),
        ("learner.ranks=2", ["learner.ranks", "deepspeed"]),
        ("sampler.actors=2", ["sampler.actors", "runtime=ray"]),
        ("nonsense", ["--set nonsense", "key.path=value"]),
        ("oracle.target=missing.py:compare", ["oracle.target", "missing.py"]),
        ("oracle.target=mine.py:nothing", ["mine.py", "nothing"]),
        ("policy.path=nowhere", ["policy.path", "nowhere"]),
        ("prompts.path=nowhere.jsonl", ["prompts.path", "nowhere.jsonl"]),
        ("posterior.features=encoder", ["posterior.encoder_path"]),
        ("device=cuda", ["device=cuda", "no GPU", "device=cpu"]),
        ("sampler.max_new_tokens=64", ["sampler.max_new_tokens=64", "context is 64 tokens"]),
        ("sampler.max_new_tokens=63", ["prompts.jsonl:1", "2", "64"]),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(change: str, words: list[str], complain: Callable[..., str]) -> None:
    message = complain(change)
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (["oracle={kind: world}"], "oracle"),
        (["evaluation={prompts_path: prompts.jsonl, judge: {kind: world}}"], "evaluation.judge"),
    ],
)
def test_a_world_that_cannot_read_the_prompts_is_named_by_its_key(
    changes: list[str], key: str, complain: Callable[..., str]
) -> None:
    message = complain(*changes)
    assert f"{key}: 'w1 w2' is not a prompt of the world lexicon" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "w1"}\n{"prompt": \n', ["prompts.jsonl:2"]),
        ("", ["prompts.jsonl", "no prompts"]),
        ('{"prompt": "w1"}\n{"text": "w1"}\n', ["prompts.jsonl:2", "prompt", "text"]),
        ('{"prompt": ""}\n', ["prompts.jsonl:1", "empty"]),
        ('{"prompt": "' + "w1 " * 80 + '"}\n', ["prompts.jsonl:1", "80", "64"]),
    ],
    ids=["broken-json", "empty-file", "other-field", "empty-prompt", "too-long"],
)
def test_a_bad_prompt_file_is_named_with_its_line(
    content: str, words: list[str], complain: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "prompts.jsonl").write_text(content)
    message = complain()
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return [float('nan')] * len(duels)", ["nan", "between 0 and 1"]),
        ("return [1.0]  * (len(duels) + 1)", ["3 answers for 2 duels"]),
        ("raise RuntimeError('out of tea')", ["RuntimeError", "out of tea", "mine.py:2"]),
        ("raise SystemExit(0)", ["SystemExit", "mine.py:2"]),
        ("return 1.0", ["returned float", "one probability for each duel"]),
        ("return None", ["returned NoneType"]),
        ("return [10**400] * len(duels)", ["between 0 and 1"]),
    ],
    ids=["nan", "wrong-count", "raises", "exits", "number", "nothing", "huge"],
)
def test_an_oracle_that_misbehaves_is_named(
    body: str, words: list[str], complain: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(f"def compare(duels):\n    {body}\n")
    message = complain(running=True)
    for word in words:
        assert word in message, message


def test_an_async_oracle_is_refused(complain: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("async def compare(duels):\n    return [1.0] * len(duels)\n")
    assert "async function; give a plain one" in complain()


def test_after_an_error_without_answers_the_mended_run_can_use_the_same_directory(
    complain: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def compare(duels):\n    return []\n")
    complain(running=True)
    (tmp_path / "mine.py").write_text(GOOD_ORACLE)
    complain(expect=0)


def test_answers_that_were_paid_for_are_kept_when_a_later_one_is_bad(
    complain: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "calls = []\ndef compare(duels):\n    calls.append(1)\n"
        "    return [1.0] * len(duels) if len(calls) < 2 else []\n"
    )
    complain(running=True)
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == 2


def test_a_configuration_that_is_not_text_is_refused(complain: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"policy: \xff\xfe")
    assert "mine.yaml: cannot be read as UTF-8 text" in complain()


@pytest.mark.parametrize("runtime", ["inline", "ray"])
def test_weights_that_are_not_safetensors_are_refused_wherever_they_are_loaded(
    runtime: str, complain: Callable[..., str], policy_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    broken = shutil.copytree(policy_dir("llama"), tmp_path / "broken")
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    message = complain(f"policy.path={broken}", f"runtime={runtime}")
    assert f"policy.path={broken}" in message
    assert "safetensors" in message


@pytest.mark.parametrize("damage", ["cut", "layer"])
def test_weights_that_are_not_whole_are_refused(
    damage: str, complain: Callable[..., str], policy_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    broken = shutil.copytree(policy_dir("llama"), tmp_path / "broken")
    file = broken / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        weights = {name: tensor for name, tensor in load_file(file).items() if "layers.1" not in name}
        save_file(weights, file, metadata={"format": "pt"})
    message = complain(f"policy.path={broken}")
    assert f"policy.path={broken}" in message
    assert damage == "cut" or "lacks" in message


def test_a_tokenizer_of_another_model_is_refused(
    complain: Callable[..., str], policy_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    mixed = shutil.copytree(policy_dir("llama"), tmp_path / "mixed")
    make_byte_tokenizer().save_pretrained(mixed)
    assert "has only 32 tokens" in complain(f"policy.path={mixed}")


def test_an_end_token_that_the_model_cannot_give_is_refused(
    complain: Callable[..., str], policy_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    added = shutil.copytree(policy_dir("llama"), tmp_path / "added")
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(added)
    padded = shutil.copytree(added, tmp_path / "padded")
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    tokenizer.save_pretrained(added)
    assert "end-of-sequence token 33 of the tokenizer is outside the model" in complain(f"policy.path={added}")
    assert complain(f"policy.path={padded}", expect=0) == "", "padding may be outside"


def test_adapters_on_a_tied_head_are_refused(complain: Callable[..., str], tmp_path: Path) -> None:
    make_policy_of("llama tied", tmp_path / "tied")
    message = complain(f"policy.path={tmp_path / 'tied'}", "learner.lora={targets: [lm_head]}")
    assert "model.embed_tokens.weight and lm_head.weight are one tensor" in message


def test_a_model_directory_without_a_tokenizer_is_refused(
    complain: Callable[..., str], policy_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in policy_dir("llama").iterdir():
        if "token" not in file.name:
            (bare / file.name).write_bytes(file.read_bytes())
    message = complain(f"policy.path={bare}")
    assert "tokenizer" in message
    assert "save_pretrained" in message


@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter_is_refused_with_the_way_to_merge_it(
    whole: bool, complain: Callable[..., str], policy_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    """Alone, or in the directory of its base model; and what the message says is done, and taken."""
    base = policy_dir("llama")
    adapter = shutil.copytree(base, tmp_path / "adapter") if whole else tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear")).save_pretrained(adapter)
    message = complain(f"policy.path={adapter}")
    assert f"policy.path={adapter}: it holds an adapter" in message
    code = "\n".join(line.strip() for line in message.splitlines()[1:])
    assert "merge_and_unload" in code
    merged = tmp_path / "merged"
    exec(code.replace("BASE_MODEL", repr(str(base))), {"peft": peft, "transformers": transformers})
    complain(f"policy.path={merged}", expect=0)


def test_a_chat_template_that_fails_is_refused_with_template_and_line(
    complain: Callable[..., str], policy_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    policy = shutil.copytree(policy_dir("llama"), tmp_path / "chatty")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": [{"role": "user", "content": "w1"}]}) + "\n")
    for template, words in (
        ("{{ messages[0].content + 1 }}", ["TypeError", "can only concatenate"]),
        ([{"name": "rag", "template": "{{ messages[0].content }}"}], ["rag"]),
    ):
        settings = json.loads((policy / "tokenizer_config.json").read_text())
        (policy / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
        message = complain(f"policy.path={policy}")
        for word in ["prompts.jsonl:1: the chat template of", "chatty", *words]:
            assert word in message, message


def test_held_out_prompts_have_a_subset_of_their_own(
    complain: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "colours"
    folder.mkdir()
    parts = [{"config_name": name, "data_files": f"{name}.jsonl"} for name in ("train", "held")]
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': parts})}\n---\n")
    for name in ("train", "held"):
        (folder / f"{name}.jsonl").write_text('{"prompt": "w1"}\n{"prompt": "w2"}\n')
    both = ["prompts={path: colours, subset: train}", "evaluation={prompts_path: colours, split: train}"]
    message = complain(*both)
    assert "evaluation.prompts_path=colours" in message
    assert "set evaluation.subset to one of 'train', 'held'" in message
    complain(*both, "evaluation.subset=held", expect=0)


def test_a_used_output_directory_is_not_overwritten(complain: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    assert "not an empty directory" in complain(running=True)
    assert (tmp_path / "out" / "precious").read_text() == "mine"


def test_check_asks_vllm_whether_it_knows_the_policy(
    complain: Callable[..., str], sea_agent: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(path: str, device: str) -> None:
        asked.append(device)
        raise UserError("vLLM does not know it")

    monkeypatch.setattr(actors.vllm_sampler, "require_architecture", refuse)
    assert sea_agent("check", "mine.yaml").code == 0
    done = sea_agent("check", "mine.yaml", "--set", "sampler.backend=vllm")
    assert (done.code, asked) == (2, ["cpu"])
    assert "vLLM does not know it" in done.err


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_policy_that_transformers_does_not_sample_exactly_is_refused(
    command: str, complain: Callable[..., str], sea_agent: Callable[..., Any], tmp_path: Path
) -> None:
    complain(expect=0)
    made = make_policy_of("minimax", tmp_path / "odd")
    out = ("--out", "odd-run") if command == "run" else ()
    done = sea_agent(command, "mine.yaml", "--set", f"policy.path={made}", *out)
    assert done.code == 2
    assert f"policy.path={made}: transformers computes MiniMaxForCausalLM with its cache otherwise" in done.err
    assert "Traceback" not in done.err


def test_vllm_that_is_not_installed_is_told_before_anything_starts(
    complain: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else find(name, *rest))
    assert "sampler.backend=vllm: vLLM is not installed" in complain("sampler.backend=vllm")


def test_a_process_of_its_own_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sea_agent", "run", "no-such-preset", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("sea-agent: no-such-preset: no such file")
    assert done.stderr.count("\n") == 1
