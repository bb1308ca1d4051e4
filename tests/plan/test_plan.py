"""``sea-agent plan``: what a recorded run and a machine's file say of a run, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sea_agent.config.files import load_config, to_yaml
from sea_agent.errors import UserError
from sea_agent.plan.estimate import estimate, layouts, memory
from sea_agent.plan.machine import GPUS, Machine, Shape, load_machine
from sea_agent.plan.modelled import modelled
from sea_agent.plan.planned import Costs, Planned
from sea_agent.plan.recorded import recorded

ONE_B = Shape(weights=1.01e9, layers=16, width=2048, vocabulary=50304)
SECONDS = {"sample": 4.0, "select": 1.0, "ask": 3.0, "label": 0.0, "learn": 2.0, "publish": 0.5, "update": 1.0}
IMAGINED = {"sample": 3.0, "imagine": 1.0, "learn": 5.0, "publish": 0.5}
SERVICE = "kind: feedback_service, url: http://127.0.0.1:8400, run: r"
SOME = Costs(SECONDS, IMAGINED, evaluation=7.0, once=0.0, actors=1, imagined_share=1.0, source="recorded")
ON_RAY = ("runtime=ray", "imagination.rounds=0")
AHEAD = ("sampler.ahead=1", "learner.max_staleness=1")
SEA = ("budget.oracle_queries=48", "evaluation.every=16", "imagination.start=16")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The record of a run of ``sea``: 48 answers, 12 imagined rounds where 24 were allowed, then 24, then 24."""
    config = load_config("sea", SEA)
    rows: list[dict[str, Any]] = [{"round": 0, "oracle_queries": 0, "seconds": {"evaluate": 7.0}}]
    for answers, imagined in ((16, 12), (32, 24), (48, 24)):
        slow = 10.0 if answers == 16 else 1.0  # the first round of a kind is not like the others
        asked = {stage: slow * wall for stage, wall in SECONDS.items()}
        rows.append({"round": len(rows), "oracle_queries": answers, "seconds": asked})
        rows += [{"round": len(rows) + n, "oracle_queries": answers, "seconds": IMAGINED} for n in range(imagined)]
        rows[-1] = rows[-1] | {"seconds": rows[-1]["seconds"] | {"evaluate": 7.0}}
    for row in rows:
        row["seconds"] = {stage: {"wall": wall, "cpu": wall} for stage, wall in row["seconds"].items()}
    spent = sum(part["wall"] for row in rows for part in row["seconds"].values())
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "summary.json").write_text(json.dumps({"wall_seconds": spent + 5.0}))
    return tmp_path


def planned(*settings: str, preset: str = "sea", shape: Shape = ONE_B, **machine: Any) -> Planned:
    return Planned(load_config(preset, settings), Machine.model_validate(machine), shape)


def on_gpus(*settings: str, shape: Shape = ONE_B) -> Planned:
    answers = ("budget.oracle_queries=1280", *settings)
    return planned(*answers, preset="tldr-pythia-1b", shape=shape, gpu="h100", gpus=8, price=2.0)


def test_the_stages_of_a_recorded_run_foretell_a_longer_one(run: Path) -> None:
    longer = planned(*SEA, "budget.oracle_queries=480")
    costs = recorded(run, longer)
    assert costs.asked == pytest.approx(SECONDS)
    assert costs.imagined == pytest.approx(IMAGINED)
    assert (costs.evaluation, costs.once, costs.imagined_share) == pytest.approx((7.0, 5.0, 60 / 72))
    found = estimate(longer, costs)
    expected = 5 + 7 + 30 * 11.5 + 30 * 24 * 60 / 72 * 9.5 + 30 * 7
    assert found.hours[0] * 3600 == pytest.approx(expected, rel=0.01)


def test_a_stage_that_was_taken_for_another_shows(run: Path) -> None:
    """The control: what is hidden behind what depends on which stage takes how long."""
    (run / "config.yaml").write_text(to_yaml(load_config("sea", [*SEA, *ON_RAY])))
    pipelined = planned(*SEA, *ON_RAY, *AHEAD)
    costs = recorded(run, pipelined)
    right = estimate(pipelined, costs).hours[0]
    costs.asked["sample"], costs.asked["publish"] = costs.asked["publish"], costs.asked["sample"]
    assert estimate(pipelined, costs).hours[0] > 1.1 * right


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["batch_size=32"], "another batch_size"),
        (["learner.micro_batch=2", "sampler.candidates=3"], "another learner.micro_batch, sampler.candidates"),
        (["oracle.labels=bernoulli"], "another oracle.labels"),
    ],
)
def test_a_run_of_something_else_foretells_nothing(run: Path, settings: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        recorded(run, planned(*SEA, *settings))


def test_a_run_that_sampled_ahead_is_no_record_of_its_stages(run: Path) -> None:
    settings = (*SEA, *ON_RAY, *AHEAD)
    (run / "config.yaml").write_text(to_yaml(load_config("sea", settings)))
    with pytest.raises(UserError, match=r"sampled ahead.*sampler\.ahead=0"):
        recorded(run, planned(*settings))


def test_a_run_without_imagined_rounds_does_not_foretell_one_with_them(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    asked = [row for row in rows if "imagine" not in row["seconds"]]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    with pytest.raises(UserError, match="nothing was imagined there"):
        recorded(run, planned(*SEA))
    assert recorded(run, planned(*SEA, "imagination.rounds=0")).imagined == {}
    with pytest.raises(UserError, match=r"another selection\.rule"):
        recorded(run, planned(*SEA, "selection.rule=passive", "imagination.rounds=0"))


def test_a_run_that_did_not_wait_says_nothing_of_its_people(run: Path) -> None:
    hasty = (f"oracle={{{SERVICE}, wait: false}}", "learner.max_staleness=9")
    (run / "config.yaml").write_text(to_yaml(load_config("sea", [*SEA, *hasty])))
    with pytest.raises(UserError, match="did not wait for answers"):
        recorded(run, planned(*SEA, *hasty))
    assert recorded(run, planned(*SEA, *hasty, people={})).asked == pytest.approx(SECONDS)


@pytest.mark.parametrize("summary", ["{}", '{"wall_seconds": "x"}', "no"])
def test_a_broken_summary_is_refused_by_name(summary: str, run: Path) -> None:
    (run / "summary.json").write_text(summary)
    with pytest.raises(UserError, match=r"summary\.json"):
        recorded(run, planned(*SEA))


@pytest.mark.parametrize("who", [{"people": {"annotators": 2}}, {"judge": {"parallel": 2}}])
def test_fewer_who_answer_than_votes_are_refused(who: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"2 at once cannot give a duel oracle\.votes=3"):
        estimate(planned(f"oracle={{{SERVICE}, votes: 3}}", **who), SOME)


def test_people_take_the_place_of_the_recorded_oracle(run: Path) -> None:
    people = {"annotators": 2, "seconds": 60, "spread": 0, "hours_a_day": 24, "price": 0.5}
    asked = planned(*SEA, "imagination.rounds=0", f"oracle={{{SERVICE}}}", people=people)
    found = estimate(asked, recorded(run, asked))
    assert found.played.waited == pytest.approx(3 * 8 * 60)
    assert found.dollars[1] == 24.0
    assert found.bottleneck == "oracle"


def test_more_gpus_are_faster_and_dearer() -> None:
    front = layouts(on_gpus())
    hours = [found.hours[0] for _, found in front]
    dollars = [sum(found.dollars) for _, found in front]
    assert hours == sorted(hours)
    assert dollars == sorted(dollars, reverse=True)
    assert all(found.gpus <= 8 for _, found in front)
    settings, best = front[0]
    again = on_gpus(*settings)
    assert estimate(again, modelled(again)).hours[0] == pytest.approx(best.hours[0])


def test_the_ranks_share_the_memory_of_the_optimiser() -> None:
    one, four = (memory(on_gpus(f"learner.ranks={ranks}"))[0] for ranks in (1, 4))
    assert one.part == "learner"
    assert one.bytes - four.bytes == pytest.approx(16 * ONE_B.weights * 3 / 4)


def test_vllm_takes_what_it_reserves_and_parts_on_one_gpu_add_up() -> None:
    [_, sampler, *_] = memory(on_gpus("sampler.gpu_memory_share=0.6"))
    assert sampler.bytes == pytest.approx(0.6 * 80e9)
    [everything] = memory(on_gpus("runtime=inline", "learner.engine=torch"))
    assert everything.bytes == pytest.approx(sum(one.bytes for one in memory(on_gpus())))
    assert not memory(on_gpus("placement.sampler_gpus=0.3"))[1].fits(GPUS["h100"]), "0.4 of it are reserved"


@pytest.mark.parametrize("setting", ["sampler.weight_transfer=ipc", "placement.learner_gpus=0.5"])
def test_layouts_that_the_configuration_forbids_are_left_out(setting: str) -> None:
    assert all("learner.ranks=2" not in settings for settings, _ in layouts(on_gpus(setting)))


@pytest.mark.parametrize("setting", ["device=cpu", "policy.dtype=float32", "sampler.backend=hf"])
def test_the_model_of_the_machine_is_for_gpus_with_vllm_in_16_bits(setting: str) -> None:
    with pytest.raises(UserError, match="only GPUs with vLLM and 16 bits can be foretold"):
        modelled(on_gpus(setting))


def test_what_no_gpu_holds_is_in_no_layout() -> None:
    assert layouts(on_gpus(shape=Shape(weights=400e9, layers=80, width=8192, vocabulary=128_000))) == []


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"gpu": "h1000"}, "gpu.*a100-40, a100-80, h100, h200"),
        ({"gpus": 8, "peple": {}}, "peple: unknown key; did you mean people"),
        ({"people": {"hours_a_day": 25}}, "hours_a_day"),
        ({"people": {"spread": 300}}, "people.spread"),
        ({"gpu": {"flops": 1e12}}, "gpu.bandwidth: Field required"),
        ({"people": {}, "judge": {}}, "people or judge"),
        ("gpus: 2024-13-01", "not YAML"),
        ([1], "expected keys such as gpu"),
    ],
)
def test_a_bad_machine_is_refused_by_key(tree: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "machine.yaml").write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    with pytest.raises(UserError, match=f"(?s)machine.yaml.*{words}"):
        load_machine(tmp_path / "machine.yaml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sea", "--machine", "none.yaml"), "--machine none.yaml: cannot be read"),
        (("sea", "--machine", "cpu.yaml"), "give gpu and gpus in --machine, or --run"),
        (("sea", "--machine", "cpu.yaml", "--run", "."), "not the directory of a run: there is no config.yaml"),
    ],
)
def test_the_command_says_what_is_missing(
    arguments: tuple[str, ...], words: str, sea_agent: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "cpu.yaml").write_text("prompt_tokens: 8\n")
    done = sea_agent("plan", *arguments)
    assert done.code == 2
    assert words in done.err.replace("\n", " ")


def test_the_command_tells_hours_money_and_layouts(sea_agent: Callable[..., Any], tmp_path: Path) -> None:
    tree = {"gpu": "h100", "gpus": 8, "people": {"annotators": 10}, "policy": ONE_B.model_dump()}
    (tmp_path / "machine.yaml").write_text(yaml.safe_dump(tree))
    settings = ("--set", "budget.oracle_queries=1280")
    done = sea_agent("plan", "tldr-pythia-1b", "--machine", "machine.yaml", *settings)
    assert done.code == 0, done.err
    for words in ("hours", "oracle at work", "memory of a GPU: learner", "learner.ranks=", "guess"):
        assert words in done.out
