"""Configuration: clear refusals, overrides, presets, and a meaning for every key."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, create_model

from sea_agent.config import EvaluationConfig, LearnerConfig, OracleConfig, RunConfig
from sea_agent.config.files import describe_keys, load_config, parse_config, presets, to_yaml
from sea_agent.config.section import Section
from sea_agent.errors import UserError


def minimal() -> dict[str, Any]:
    """The smallest valid configuration."""
    return {
        "policy": {"path": "policy"},
        "prompts": {"path": "prompts.jsonl"},
        "oracle": {"kind": "world"},
        "budget": {"oracle_queries": 8},
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(minimal()))
    return path


def with_value(dotted: str, value: Any) -> dict[str, Any]:
    """The minimal configuration with one more key."""
    tree = minimal()
    *parents, leaf = dotted.split(".")
    node = tree
    for key in parents:
        node = node.setdefault(key, {})
    node[leaf] = value
    return tree


def sections(model: type[BaseModel] = RunConfig) -> Iterator[type[BaseModel]]:
    """Every section class reachable from ``model``."""

    def inside(annotation: Any) -> Iterator[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        for argument in get_args(annotation):
            yield from inside(argument)

    yield model
    for field in model.model_fields.values():
        for section in inside(field.annotation):
            yield from sections(section)


def undocumented(model: type[BaseModel]) -> list[str]:
    """Fields of every section below ``model`` that have no docstring."""
    return [
        f"{section.__name__}.{name}"
        for section in sections(model)
        for name, field in section.model_fields.items()
        if not (field.description or "").strip()
    ]


def test_the_minimal_configuration_is_valid() -> None:
    config = parse_config(minimal(), where="here")
    assert config.budget.oracle_queries == 8
    assert config.learner == LearnerConfig()


@pytest.mark.parametrize(
    ("dotted", "nearest"),
    [
        ("sede", "seed"),
        ("learner.learning_rat", "learner.learning_rate"),
        ("posterior.ensemble.hiden", "posterior.ensemble.hidden"),
        ("oracle.label", "oracle.labels"),
        ("evaluation.judge.scorerr", "evaluation.judge.scorer"),
        ("sampler.beta", "learner.beta"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_valid_key_named(dotted: str, nearest: str) -> None:
    tree = with_value(dotted, 1)
    if dotted.startswith("evaluation.judge"):
        tree["evaluation"]["judge"]["kind"] = "world"
    with pytest.raises(UserError) as refusal:
        parse_config(tree, where="run.yaml")
    assert f"{dotted}: unknown key; did you mean {nearest}?" in str(refusal.value)


@pytest.mark.parametrize(
    ("oracle", "nearest"),
    [({"kind": "llm_judge", "model": "m"}, "oracle.max_tokens"), ({"kind": "world"}, "sampler.max_new_tokens")],
)
def test_no_key_of_a_kind_that_was_not_chosen_is_named(oracle: dict[str, Any], nearest: str) -> None:
    with pytest.raises(UserError, match=rf"oracle\.max_tokns: unknown key; did you mean {re.escape(nearest)}\?"):
        parse_config(minimal() | {"oracle": oracle | {"max_tokns": 9}}, where="run.yaml")


def test_a_key_like_no_other_points_to_the_list_of_keys() -> None:
    with pytest.raises(UserError, match="xqzzyw: unknown key; see `sea-agent check --keys`"):
        parse_config(with_value("xqzzyw", 1), where="run.yaml")


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("sampler.temperature", 0.0),
        ("sampler.candidates", 1),
        ("learner.label_smoothing", 0.5),
        ("learner.zero_stage", 4),
        ("learner.learning_rate", float("nan")),
        ("mixing.oracle_share", 0.0),
        ("budget.oracle_queries", 0),
        ("oracle.labels", "coin"),
        ("seed", -1),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_key_and_the_value(dotted: str, value: Any) -> None:
    with pytest.raises(UserError) as refusal:
        parse_config(with_value(dotted, value), where="run.yaml")
    assert f"  {dotted}: " in str(refusal.value)
    assert f"(got {value!r})" in str(refusal.value)


def test_every_problem_is_reported_at_once_with_the_file() -> None:
    tree = minimal() | {"sede": 1, "batch_size": 0}
    del tree["policy"]
    with pytest.raises(UserError) as refusal:
        parse_config(tree, where="run.yaml")
    first, *problems = str(refusal.value).splitlines()
    assert first.startswith("run.yaml:")
    assert {problem.strip().partition(":")[0] for problem in problems} == {"policy", "sede", "batch_size"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": {"ranks": 2}, "runtime": "ray"}, "learner.engine=deepspeed"),
        ({"learner": {"ranks": 2, "engine": "deepspeed"}}, "learner.ranks=2 needs runtime=ray"),
        ({"sampler": {"actors": 2}}, "sampler.actors=2 needs runtime=ray"),
        ({"posterior": {"features": "encoder"}}, "posterior.encoder_path"),
        ({"posterior": {"encoder_path": "e"}}, "encoder_path has no effect with posterior.features=policy"),
        (
            {"sampler": {"candidates": 4, "reference_candidates": 5}},
            "reference_candidates=5 is more than .*candidates=4",
        ),
        (
            {"sampler": {"candidates": 4, "reference_candidates": 3}, "imagination": {"candidates": 2}},
            "reference_candidates=3 is more than imagination.candidates=2",
        ),
        (
            {"sampler": {"candidates": 4, "reference_candidates": 4}, "selection": {"prompt_pool": 2}},
            "selection.prompt_pool needs samples of the policy",
        ),
        ({"selection": {"prompt_choice": "information"}}, "nothing to choose from: set selection.prompt_pool above 1"),
        ({"sampler": {"reference_candidates": 1, "backend": "vllm"}}, "needs runtime=ray with vllm"),
        ({"selection": {"rule": "apl"}, "learner": {"loss": "simpo"}}, "selection.rule=apl needs .* a reference"),
        ({"learner": {"optimism": "selm", "loss": "simpo"}}, "learner.optimism=selm needs .* a reference"),
        (
            {"selection": {"rule": "sea_eee"}},
            r"selection.rule: expected sea_ee, .*path/to/file.py:name .*got 'sea_eee'",
        ),
        ({"learner": {"loss": "mine.py:"}}, r"learner.loss: expected dpo, .*path/to/file.py:name"),
        ({"posterior": {"features": "txt"}}, r"posterior.features: expected policy, .*path/to/file.py:name"),
        ({"learner": {"optimism": "xpo"}}, "learner.optimism=xpo needs sampler.reference_candidates"),
        ({"evaluation": {"judge": {"kind": "llm_judge", "model": "m"}}}, "set judge.evaluates=true"),
        (
            {"evaluation": {"judge": {"kind": "feedback_service", "url": "http://127.0.0.1:8400", "run": "r"}}},
            "people are not asked to evaluate",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(minimal() | changes, where="run.yaml")


def test_the_same_settings_are_accepted_once_they_agree() -> None:
    changes = {"learner": {"ranks": 2, "engine": "deepspeed"}, "sampler": {"actors": 2}, "runtime": "ray"}
    assert parse_config(minimal() | changes, where="run.yaml").learner.ranks == 2
    sampler = {"candidates": 4, "reference_candidates": 3, "backend": "vllm"}
    changes = {"runtime": "ray", "sampler": sampler, "selection": {"rule": "apl", "prompt_pool": 2}}
    changes["learner"] = {"optimism": "xpo", "loss": "ipo"}
    assert parse_config(minimal() | changes, where="run.yaml").selection.prompt_pool == 2
    changes = {"evaluation": {"judge": {"kind": "llm_judge", "model": "m", "evaluates": True}}}
    assert parse_config(minimal() | changes, where="run.yaml").evaluation.judge is not None


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("2E+1", 20.0), (".5e-2", 0.005), ("3.e-4", 3e-4), ("0.25", 0.25), ("7", 7.0)],
)
def test_an_override_reads_numbers_as_written_in_papers(file: Path, text: str, value: float) -> None:
    assert load_config(str(file), [f"learner.learning_rate={text}"]).learner.learning_rate == value


def test_scientific_numbers_are_numbers_in_files_too(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(minimal()) + "learner:\n  learning_rate: 5e-7\n")
    assert load_config(str(path)).learner.learning_rate == 5e-7


def test_plain_yaml_would_read_such_a_number_as_text() -> None:
    assert yaml.safe_load("5e-7") == "5e-7"


def test_an_override_can_create_a_section_and_the_last_of_two_wins(file: Path) -> None:
    config = load_config(str(file), ["posterior.ensemble.hidden=64", "posterior.ensemble.hidden=32"])
    assert config.posterior.ensemble.hidden == 32


def test_an_override_of_an_unknown_key_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean learner\.beta\?"):
        load_config(str(file), ["learner.betta=0.2"])


@pytest.mark.parametrize("override", ["learner.beta", "=0.2", ""])
def test_an_override_without_key_or_value_shows_the_right_form(file: Path, override: str) -> None:
    with pytest.raises(UserError, match=r"expected key\.path=value"):
        load_config(str(file), [override])


def test_an_override_that_is_not_yaml_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match=r"--set policy\.path=\[: the value is not valid YAML"):
        load_config(str(file), ["policy.path=["])


@pytest.mark.parametrize("reverse", [False, True])
def test_switching_the_kind_of_a_section_drops_the_other_kinds_keys(file: Path, reverse: bool) -> None:
    overrides = ["oracle.kind=python", "oracle.target=judge.py:compare"]
    tree = minimal() | {"oracle": {"kind": "world", "scorer": "judge"}}
    file.write_text(yaml.safe_dump(tree))
    config = load_config(str(file), overrides[::-1] if reverse else overrides)
    others = {"returns": "probability", "labels": "threshold"}
    assert config.oracle.model_dump() == {"kind": "python", "target": "judge.py:compare"} | others


def test_without_the_switch_a_key_of_another_kind_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match=r"oracle\.target: unknown key"):
        load_config(str(file), ["oracle.target=judge.py:compare"])


def test_naming_the_same_kind_again_keeps_the_section(file: Path) -> None:
    file.write_text(yaml.safe_dump(minimal() | {"oracle": {"kind": "world", "scorer": "judge"}}))
    assert load_config(str(file), ["oracle.kind=world"]).oracle.model_dump()["scorer"] == "judge"


@pytest.mark.parametrize("text", ["policy: [", "policy: {path: a\nprompts: x", "\tpolicy: x"])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml: not valid YAML"):
        load_config(str(path))


@pytest.mark.parametrize("text", ["", "- policy", "just text"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"list\.yaml: expected a mapping"):
        load_config(str(path))


def test_a_misspelt_preset_names_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"tldr-pythia-1: no such file.*Did you mean tldr-pythia-1b\?"):
        load_config("tldr-pythia-1")


@pytest.mark.parametrize("name", presets())
def test_each_preset_is_valid_and_survives_being_written_and_read(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config(str(path)) == config


def extending(tmp_path: Path, tree: dict[str, Any]) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def test_a_file_that_extends_a_preset_holds_what_differs(tmp_path: Path) -> None:
    changes = {"extends": "lab", "learner": {"loss": "ipo"}, "budget": {"oracle_queries": 3}}
    expected = load_config("lab", ["learner.loss=ipo", "budget.oracle_queries=3"])
    assert load_config(extending(tmp_path, changes)) == expected
    assert expected != load_config("lab")
    assert load_config(extending(tmp_path, changes), ["learner.loss=slic"]).learner.loss == "slic"


def test_what_a_preset_extends_comes_with_it(tmp_path: Path) -> None:
    config = load_config(extending(tmp_path, {"extends": "sea", "learner": {"beta": 0.7}}))
    assert config == load_config("sea", ["learner.beta=0.7"])
    assert config.policy == load_config("lab").policy


def test_a_section_of_another_kind_takes_nothing_over(tmp_path: Path) -> None:
    oracle = {"kind": "python", "target": "mine.py:compare"}
    config = load_config(extending(tmp_path, {"extends": "lab", "oracle": oracle}))
    assert config.oracle.model_dump() == oracle | {"returns": "probability", "labels": "threshold"}
    same_kind = load_config(extending(tmp_path, {"extends": "lab", "oracle": {"kind": "world", "scorer": "judge"}}))
    assert same_kind.oracle.model_dump()["labels"] == "threshold", "lab's; the default is bernoulli"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lap", r"mine\.yaml: extends lap, which is not one of the presets"),
        (["lab"], "not one of the presets"),
    ],
)
def test_only_a_preset_can_be_extended(tmp_path: Path, name: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(extending(tmp_path, {"extends": name}))


def test_an_unknown_key_of_an_extending_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"learner\.betta: unknown key; did you mean learner\.beta\?"):
        load_config(extending(tmp_path, {"extends": "lab", "learner": {"betta": 0.2}}))


@pytest.mark.parametrize("size", ["1b", "2.8b", "6.9b"])
def test_the_tldr_presets_hold_the_published_settings(size: str) -> None:
    config = load_config(f"tldr-pythia-{size}")
    assert (config.budget.oracle_queries, config.batch_size, config.sampler.max_new_tokens) == (50_000, 128, 53)
    assert (config.sampler.candidates, config.posterior.members, config.sampler.temperature) == (20, 20, 0.7)
    assert (config.learner.loss, config.learner.beta, config.learner.learning_rate) == ("dpo", 0.1, 5e-7)
    assert (config.mixing.oracle_share, config.mixing.burn_in) == (0.7, 1000)
    assert (config.policy.dtype, config.device, config.runtime) == ("bfloat16", "cuda", "ray")
    assert config.evaluation.split != config.prompts.split


def test_every_field_has_a_docstring() -> None:
    assert undocumented(RunConfig) == []


def test_a_field_without_a_docstring_would_be_found() -> None:
    bare = create_model("Bare", __base__=Section, silent=(int, 1), inner=(EvaluationConfig | None, None))
    assert undocumented(bare) == ["Bare.silent", "Bare.inner"]


def test_the_described_keys_are_all_leaves_each_once_with_a_meaning() -> None:
    rows = list(describe_keys())
    keys = [key for key, _, _ in rows]
    assert len(keys) == len(set(keys))
    leaves = {name for section in sections() for name, field in section.model_fields.items()}
    assert {part for key in keys for part in key.split(".")} == leaves
    assert all(meaning for _, _, meaning in rows)
    assert ("budget.oracle_queries", "required") in {(key, default) for key, default, _ in rows}
    assert ("learner.beta", "0.1") in {(key, default) for key, default, _ in rows}


def test_defaults_of_some_kinds_of_oracles_do_not_hide_those_of_the_others() -> None:
    defaults = {key: default for key, default, _ in describe_keys()}
    assert defaults["oracle.kind"] == "required"
    assert defaults["oracle.wait"] == "True; live: False"
    assert defaults["oracle.url"] == "required; llm_judge: https://api.openai.com/v1; live: empty"
    assert defaults["oracle.run"] == "required; live: live"
    assert defaults["oracle.instructions"] == "empty"
    assert defaults["oracle.labels"] == "threshold; world: bernoulli"
    assert defaults["oracle.votes"] == "None"


def test_a_valid_key_is_accepted_by_the_parser() -> None:
    """Every described key can be reached: as an override of nonsense it is refused for its value, not its name."""
    for key, _, _ in describe_keys():
        if key.startswith(("oracle.", "evaluation.judge.", "learner.lora.")):
            continue  # their siblings depend on the kind
        with pytest.raises(UserError) as refusal:
            parse_config(with_value(key, {"not": ["a", "value"]}), where="run.yaml")
        assert "unknown key" not in str(refusal.value), key


@pytest.mark.parametrize(
    ("rule", "share", "best_of", "needed"),
    [
        ("passive", 1.0, 1, False),
        ("uniform", 1.0, 1, False),
        ("apl", 1.0, 1, False),
        ("passive", 0.7, 1, True),
        ("passive", 1.0, 2, True),
        ("apl", 0.7, 1, True),
        ("sea_bai", 1.0, 1, True),
    ],
)
def test_a_posterior_is_needed_when_a_decision_looks_at_it(rule: str, share: float, best_of: int, needed: bool) -> None:
    tree = minimal() | {"selection": {"rule": rule}, "mixing": {"oracle_share": share}}
    tree["evaluation"] = {"best_of": best_of}
    assert parse_config(tree, where="here").needs_posterior is needed


@given(
    seed=st.integers(min_value=0, max_value=2**63),
    rate=st.floats(min_value=1e-12, max_value=1.0),
    share=st.floats(min_value=1e-6, max_value=1.0),
    split=st.text(),
)
def test_a_configuration_survives_being_written_and_read(seed: int, rate: float, share: float, split: str) -> None:
    tree = minimal() | {"seed": seed, "learner": {"learning_rate": rate}, "mixing": {"oracle_share": share}}
    tree["prompts"] = {"path": "prompts.jsonl", "split": split}
    config = parse_config(tree, where="here")
    assert parse_config(yaml.safe_load(to_yaml(config)), where="there") == config


def test_a_configuration_cannot_be_changed_after_validation() -> None:
    config = parse_config(minimal(), where="here")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


def examples() -> list[dict[str, Any]]:
    """The settings that the page on oracles shows."""
    page = (Path(__file__).parents[2] / "docs" / "oracles.md").read_text()
    blocks = re.findall(r"(?m)^(?:    .*\n)+", re.sub(r"(?ms)^```python$.*?^```$", "", page))
    return [yaml.safe_load(textwrap.dedent(block)) for block in blocks]


@pytest.mark.parametrize("shown", examples(), ids=lambda shown: "-".join(f"{key}" for key in shown))
def test_what_the_page_on_oracles_shows_is_a_valid_configuration(shown: dict[str, Any]) -> None:
    parse_config(minimal() | shown, where="docs/oracles.md")


def test_the_page_on_oracles_shows_every_kind() -> None:
    kinds = {get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(OracleConfig)[0])}
    assert {shown["oracle"]["kind"] for shown in examples() if "oracle" in shown} == kinds


# --- how weights reach the samplers ----------------------------------------------------------------------------------


def transferring(way: str, **changes: Any) -> dict[str, Any]:
    """A configuration in which weights may go from GPU to GPU, but for the changes."""
    tree = minimal() | {"device": "cuda", "runtime": "ray"}
    tree |= {"sampler": {"backend": "vllm", "weight_transfer": way}, "learner": {"engine": "deepspeed"}}
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        node = tree
        for key in parents:
            node = node[key]
        node[leaf] = value
    return tree


@pytest.mark.parametrize("way", ["nccl", "ipc"])
@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [("device", "cpu", "cuda"), ("sampler.backend", "hf", "vllm"), ("runtime", "inline", "ray")],
)
def test_weights_go_from_gpu_to_gpu_only_where_there_are_two_processes_with_them(
    way: str, key: str, value: str, needed: str
) -> None:
    assert parse_config(transferring(way), where="here").sampler.weight_transfer == way
    with pytest.raises(UserError, match=rf"weight_transfer={way} needs {key}={needed}, not {value}"):
        parse_config(transferring(way, **{key: value}), where="here")


@pytest.mark.parametrize("key", ["sampler.actors", "learner.ranks"])
def test_only_two_processes_share_a_gpu(key: str) -> None:
    assert parse_config(transferring("nccl", **{key: 2}), where="here")
    with pytest.raises(UserError, match=rf"weight_transfer=ipc needs {key}=1, not 2.*use nccl"):
        parse_config(transferring("ipc", **{key: 2}), where="here")
