"""Every method that ships as a preset runs, counts what it asks, and does what its paper says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from actors.runtime import InlineRuntime
from sea_agent.agent import Agent
from sea_agent.config import RunConfig
from sea_agent.config.files import load_config
from sea_agent.errors import RunFailure
from sea_agent.persistence.ledger import Ledger
from sea_agent.pretrained import load_policy
from sea_agent.run.assembly import assemble
from sea_agent.run.lifecycle import run
from sea_agent.run.preflight import check
from sea_agent.types import REFERENCE_VERSION, Candidates, LabelSource, Response
from sea_agent.worlds import resolve

# A loss is the learner's affair alone, but where the method looks at the policy's implicit reward or adds to the loss.
MIXED = ("apl", "xpo", "selm", "sea")
OTHER_LOSSES = ("ipo", "slic")

# A Python oracle that writes every duel it sees to a file beside it: the count that cannot be argued with.
COUNTING_ORACLE = """
import json, pathlib
SEEN = pathlib.Path(__file__).with_suffix(".seen")

def compare(duels):
    with SEEN.open("a") as file:
        for duel in duels:
            file.write(json.dumps(duel["id"]) + "\\n")
    return [0.9 if len(duel["first"]) < len(duel["second"]) else 0.1 for duel in duels]
"""


def small(method: str, *settings: str) -> RunConfig:
    """The method with a budget that is spent in a second."""
    tiny = ["batch_size=2", "budget.oracle_queries=4", "evaluation.prompts=3", "evaluation.every=4"]
    burn_in = ["mixing.burn_in=2"] if load_config(method).mixing.oracle_share < 1.0 else []
    return load_config(method, [*tiny, *burn_in, *settings])


def summary_of(out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def last_metrics(out: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    return row


@pytest.mark.parametrize("loss", OTHER_LOSSES)
@pytest.mark.parametrize("method", MIXED)
def test_ledger_oracle_and_summary_count_the_same_with_every_loss(method: str, loss: str, tmp_path: Path) -> None:
    """With DPO, for every preset: ``test_promises``."""
    (tmp_path / "mine.py").write_text(COUNTING_ORACLE)
    oracle = ["oracle.kind=python", f"oracle.target={tmp_path / 'mine.py'}:compare", "evaluation.judge=null"]
    summary = run(small(method, f"learner.loss={loss}", *oracle), tmp_path / "out")
    seen = [json.loads(line) for line in (tmp_path / "mine.seen").read_text().splitlines()]
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        rows = ledger.rows()
        assert ledger.oracle_queries == summary["oracle_queries"] == 4
    asked = [duel.id for duel, _ in rows if duel.label_source is LabelSource.ORACLE]
    assert sorted(asked) == sorted(name for name in seen if name.startswith("duel-"))
    assert len(seen) == 4 + summary["evaluation_queries"]
    assert all(duel.first.text != duel.second.text for duel, _ in rows)
    assert all(verdict is not None for _, verdict in rows)


def test_a_variant_with_best_of_n_is_the_same_run_as_the_one_without(tmp_path: Path) -> None:
    """4, 5 and 6 are 1, 2 and 3 with another inference: measuring it changes nothing."""
    for policy, best_of in ((1, 4), (2, 5), (3, 6)):
        for number in (policy, best_of):
            run(small(f"variant-{number}"), tmp_path / str(number))
        one, other = (summary_of(tmp_path / str(number)) for number in (policy, best_of))
        assert one["policy_checksum"] == other["policy_checksum"]
        assert one["oracle_queries"] == other["oracle_queries"]
        assert "best_of_judge_win_rate_ci" in other
    duels = []
    for number in ("1", "2", "3"):
        with Ledger(tmp_path / number / "ledger.sqlite") as ledger:
            duels.append([(duel.first.text, duel.second.text) for duel, _ in ledger.rows()])
    assert duels[0] != duels[1], "the control: passive and active ask other duels"


def test_before_any_label_best_of_n_is_the_policys_first_sample(tmp_path: Path) -> None:
    run(small("variant-7"), tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["best_of_win_rate"] == rows[0]["win_rate"]
    assert rows[-1]["best_of_win_rate"] != rows[-1]["win_rate"]


def test_the_fixed_policy_is_the_initial_one_at_the_end_and_its_win_rate_never_moves(tmp_path: Path) -> None:
    initial = load_file(Path(resolve("world://lexicon/policy")) / "model.safetensors")
    for method, moved in (("variant-7", False), ("variant-5", True)):
        out = tmp_path / method
        run(small(method, "imagination.rounds=1", "imagination.start=2"), out)
        final = load_file(out / "policy" / "model.safetensors")
        assert any((final[name] != initial[name]).any() for name in final) == moved
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert (len({row["win_rate"] for row in rows if "win_rate" in row}) > 1) == moved
        assert (rows[-1]["gradient_steps"] > 0) == moved
        assert summary_of(out)["policy_version"] == summary_of(out)["rounds"] == 4


def test_offline_duels_are_those_of_an_untrained_policy(tmp_path: Path) -> None:
    """Trained or not, the candidates are the same; online they are not."""
    pairs: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for method in ("offline", "passive"):
        for steps in (0, 1):
            out = tmp_path / f"{method}-{steps}"
            run(small(method, "budget.oracle_queries=8", f"learner.steps_per_round={steps}"), out)
            with Ledger(out / "ledger.sqlite") as ledger:
                duels = [duel for duel, _ in ledger.rows()]
            pairs[method, steps] = [(duel.first.text, duel.second.text) for duel in duels]
            versions = {version for duel in duels for version in (duel.first.policy_version, duel.policy_version)}
            assert (versions == {REFERENCE_VERSION}) == (method == "offline")
    assert pairs["offline", 0] == pairs["offline", 1]
    assert pairs["passive", 0] != pairs["passive", 1]


def test_xpo_duels_set_the_policy_against_the_reference(tmp_path: Path) -> None:
    run(small("xpo", "budget.oracle_queries=8"), tmp_path / "out")
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        duels = [duel for duel, _ in ledger.rows()]
    assert {duel.second.policy_version for duel in duels} == {REFERENCE_VERSION}
    assert {duel.first.policy_version for duel in duels} == {duel.round - 1 for duel in duels}


@pytest.mark.parametrize("method", ["xpo", "selm"])
def test_optimism_reaches_the_policy(method: str, tmp_path: Path) -> None:
    for weight in (0.0, 0.1):
        run(small(method, f"learner.optimism_weight={weight}"), tmp_path / str(weight))
    one, other = (summary_of(tmp_path / weight) for weight in ("0.0", "0.1"))
    assert one["policy_checksum"] != other["policy_checksum"]


@pytest.mark.parametrize(
    ("method", "samples"),
    [
        ("offline", 2 * 2 * 4),
        ("passive", 2 * 2 * 4),
        ("uniform", 2 * 2 * 20),
        ("apl", 2 * (4 * 2) * 20),
        ("xpo", 2 * 2 * 2),
        ("selm", 2 * 2 * (4 + 1)),
    ],
)
def test_every_sample_is_counted(method: str, samples: int, tmp_path: Path) -> None:
    """Two rounds of two prompts: the whole prompt pool of APL, and the greedy responses of SELM, are compute too."""
    run(small(method), tmp_path / "out")
    assert last_metrics(tmp_path / "out")["policy_samples"] == samples


def assembled(config: RunConfig, folder: Path) -> tuple[Agent, Ledger]:
    ledger = Ledger(folder / "ledger.sqlite")
    return assemble(config, check(config), InlineRuntime(), ledger), ledger


@torch.no_grad()
def logprob(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    """One unpadded forward pass."""
    scores_T_V = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    return float(scores_T_V.gather(1, torch.tensor(response)[:, None]).sum())


def test_apl_asks_about_the_pair_that_the_policy_itself_tells_apart_most(tmp_path: Path) -> None:
    """By log-probabilities of our own, of the trained policy on disk and the initial one, and not before training."""
    agent, ledger = assembled(small("apl", "budget.oracle_queries=1000"), tmp_path)
    drawn: list[Candidates] = []
    draw = agent.source.draw

    def remembered(number: int, *, asks: bool) -> Any:
        found = draw(number, asks=asks)
        drawn[:] = found.candidates
        return found

    agent.source.draw = remembered  # type: ignore[method-assign]
    reference = load_policy("world://lexicon/policy", "float32", "cpu")
    for _ in range(3):
        agent.learner.save_policy(str(tmp_path / "policy"))
        policy = load_policy(str(tmp_path / "policy"), "float32", "cpu")
        agent.round()
        duels = {duel.prompt.id: duel for duel, _ in ledger.rows() if duel.round == agent.rounds}
        assert duels.keys() == {group.prompt.id for group in drawn}

        def implicit(group: Candidates, response: Response, policy: Any = policy) -> float:
            tokens = (group.prompt.token_ids, response.token_ids)
            return logprob(policy, *tokens) - logprob(reference, *tokens)

        for group in drawn:
            rewards = {response.id: implicit(group, response) for response in group.responses}
            duel = duels[group.prompt.id]
            widest = max(rewards.values()) - min(rewards.values())
            assert rewards[duel.first.id] - rewards[duel.second.id] == pytest.approx(widest, abs=1e-3)
            assert (widest > 0.1) == (agent.rounds > 1), "before the first step no pair stands out"
    ledger.close()


def test_an_oracle_that_is_asked_behind_the_ledgers_back_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The control of the counts."""
    ask: Callable[..., Any] = Agent.round

    def twice(agent: Agent) -> Any:
        metrics = ask(agent)
        agent.open_duels._oracle.queries += 1
        return metrics

    monkeypatch.setattr(Agent, "round", twice)
    with pytest.raises(RunFailure, match="cannot be trusted"):
        run(small("passive"), tmp_path / "out")


KNOWS_NOTHING = "import torch\n\ndef features(texts):\n    return torch.ones(len(texts), 3)\n"


def test_with_features_that_know_nothing_sea_is_passive_online_dpo(tmp_path: Path) -> None:
    (tmp_path / "nothing.py").write_text(KNOWS_NOTHING)
    more = ["budget.oracle_queries=12", "imagination.start=2", "imagination.rounds=2"]
    blind = run(small("sea", f"posterior.features={tmp_path / 'nothing.py'}:features", *more), tmp_path / "blind")
    passive = run(small("sea", *more, "selection.rule=passive", "imagination.rounds=0"), tmp_path / "passive")
    assert blind["imagined_pairs"] == 0
    assert blind["policy_checksum"] == passive["policy_checksum"]
    with Ledger(tmp_path / "blind" / "ledger.sqlite") as ledger:
        assert {duel.rule for duel, _ in ledger.rows()} == {"passive"}
    told = run(small("sea", *more, "posterior.features=reward"), tmp_path / "told")
    assert told["imagined_pairs"] > 0, "the control: features that know the reward are acted on"
    assert told["policy_checksum"] != passive["policy_checksum"]
    with Ledger(tmp_path / "told" / "ledger.sqlite") as ledger:
        assert "sea_ee" in {duel.rule for duel, _ in ledger.rows()}


def test_beyond_the_divergence_that_is_allowed_a_run_goes_on_as_passive_online_dpo(tmp_path: Path) -> None:
    more = ["budget.oracle_queries=16", "imagination.start=2", "imagination.rounds=3"]
    more.append("posterior.prior=[world://lexicon/reward]")  # trusted from the first answers on
    rows, rules = {}, {}
    for bound in ("0.1", "100", "null"):
        run(small("sea", *more, f"imagination.max_kl={bound}"), tmp_path / bound)
        lines = (tmp_path / bound / "metrics.jsonl").read_text().splitlines()
        rows[bound] = [json.loads(line) for line in lines]
        with Ledger(tmp_path / bound / "ledger.sqlite") as ledger:
            asked = [(duel.round, duel.rule) for duel, _ in ledger.rows()]
        rules[bound] = {number: {rule for of, rule in asked if of == number} for number, _ in asked}
    last = 0.0
    for row in rows["0.1"][1:]:
        if "imagine" in row["seconds"]:
            assert last <= 0.1, "an imagined round beyond the bound"
        elif last > 0.1:
            assert rules["0.1"][row["round"]] == {"passive"}
        if "imagine" in row["seconds"] or rules["0.1"][row["round"]] == {"passive"}:
            last = row["kl"]
    assert last > 0.1, "the bound was reached"
    assert {"sea_ee"} in rules["null"].values()
    imagined = {bound: sum("imagine" in row["seconds"] for row in rows[bound]) for bound in rows}
    earned = sum(row.get("posterior_trust", 0.0) >= 0.05 for row in rows["null"] if "imagine" not in row["seconds"])
    assert 0 < imagined["0.1"] < imagined["100"] == imagined["null"] == 3 * earned
    assert rules["100"] == rules["null"], "where the bound is not reached it changes nothing"
