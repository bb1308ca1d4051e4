"""The agent of live mode against a gateway: whole runs of it, killed ones, and users who want to be forgotten."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from live.live_world import Users, bytes_of, live_config, live_to_the_end
from live.mortal_agent import exit_code
from live_gateway import Gateway
from run_parts import selector as fresh_selector
from safetensors.torch import load_file

from sea_agent.errors import Stopped, UserError
from sea_agent.live.agent_part import SPENT, AgentPart, LiveRun
from sea_agent.live.log import LiveLog
from sea_agent.live.source import LiveSource
from sea_agent.loop.selector import Selector
from sea_agent.persistence.checkpoint import read_checkpoint
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.preflight import check
from sea_agent.run.session import Watch
from sea_agent.weights import checksum

pytestmark = pytest.mark.dear


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    opened = Gateway()
    yield opened
    opened.close()


def learnt(out: Path) -> dict[str, str]:
    """Outcome by completion, of every duel of the ledger; each has one."""
    with Ledger(out / "ledger.sqlite") as ledger:
        rows = ledger.rows()
    return {duel.id: "" if verdict is None else verdict.outcome.value for duel, verdict in rows}


def said(gateway: Gateway, among: list[str]) -> dict[str, str]:
    return {label["client_key"]: label["outcome"] for label in gateway.labels if label["client_key"] in among}


# --- a whole life ----------------------------------------------------------------------------------------------------


def test_every_answer_is_learnt_from_once_and_weights_are_offered(gateway: Gateway, tmp_path: Path) -> None:
    users = Users(gateway)
    answered = users.duels(12)
    users.duels(3, answered=False)
    users.conversations(4, heldout=True)
    live_to_the_end(live_config(gateway), tmp_path)
    assert learnt(tmp_path) == said(gateway, answered)
    first, *others = gateway.publications
    assert (first["round"], first["state"], len(others)) == (0, "live", len({row["checksum"] for row in others}))
    assert others
    for row in gateway.publications:
        if row["path"]:
            assert checksum(load_file(Path(row["path"]) / "model.safetensors")) == row["checksum"]
    snapshot = read_checkpoint(tmp_path / "decider", {})
    assert snapshot is not None
    assert len(snapshot.state["selector"]["posterior"]["replay"]["ids"]) == 12
    decider = fresh_selector(live_config(gateway))
    decider.load_state(snapshot.state["selector"])
    assert decider.trust == pytest.approx(decider.trust)


def test_a_configuration_is_checked_without_a_gateway_and_not_run_without_one(gateway: Gateway, tmp_path: Path) -> None:
    config = live_config(gateway, oracle__url="")
    assert check(config).prompts is None
    with pytest.raises(UserError, match=r"oracle\.url"):
        AgentPart(config, tmp_path).run()


def test_a_run_that_waits_can_be_stopped_and_loses_nothing(gateway: Gateway, tmp_path: Path) -> None:
    answered = Users(gateway).duels(6)
    config = live_config(gateway, budget__oracle_queries=None)
    rows: list[int] = []

    def stopping() -> bool:
        return bool(rows) and rows[-1] == len(answered)

    with pytest.raises(Stopped):
        AgentPart(config, tmp_path, Watch(lambda row: rows.append(row.oracle_queries), stopping=stopping)).run()
    assert learnt(tmp_path) == said(gateway, answered)


# --- what nothing may learn from -------------------------------------------------------------------------------------


def mixed(gateway: Gateway) -> tuple[list[str], list[str]]:
    """Duels to learn from, and audits and duels of held-out conversations, all of them answered."""
    users = Users(gateway)
    apart = users.duels(3, audit=True) + users.duels(3, heldout=True)
    return users.duels(8), apart


def trained_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """The duels that reach the posterior or the learner."""
    seen: set[str] = set()
    update = Selector.update

    def noted(self: Selector, answers: Any, number: int) -> Any:
        seen.update(duel.id for duel, _ in answers)
        return update(self, answers, number)

    monkeypatch.setattr(Selector, "update", noted)
    return lambda: seen


def test_audits_and_heldout_conversations_reach_neither_learner_nor_posterior(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = trained_on(monkeypatch)
    used, apart = mixed(gateway)
    live_to_the_end(live_config(gateway, budget__oracle_queries=8), tmp_path)
    assert set(learnt(tmp_path)) == seen() == set(used)
    assert not seen() & set(apart)


@pytest.mark.parametrize("flag", ["audit", "heldout"])
def test_the_check_finds_a_filter_that_is_left_out(
    flag: str, gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = LiveSource._note
    monkeypatch.setattr(LiveSource, "_note", lambda self, row: note(self, row | {flag: False}))
    seen = trained_on(monkeypatch)
    _, apart = mixed(gateway)
    live_to_the_end(live_config(gateway, budget__oracle_queries=11), tmp_path)
    assert seen() & set(apart)


def test_audits_take_back_a_version_that_an_operator_forced_in(gateway: Gateway, tmp_path: Path) -> None:
    users = Users(gateway)
    users.duels(8)
    users.conversations(4, heldout=True)
    live_to_the_end(live_config(gateway, budget__oracle_queries=8), tmp_path)
    bad = gateway.publications[-1]["version"]
    assert gateway.state_of(bad) == "rejected"
    gateway.promote(bad)
    for _ in range(12):
        (id_,) = users.duels(1, audit=True, answered=False)
        gateway.duels[-1]["first"]["policy_version"] = bad
        gateway.choose(id_, "second")
    users.duels(4)
    live_to_the_end(live_config(gateway, budget__oracle_queries=12), tmp_path)
    assert gateway.state_of(bad) == "withdrawn"
    assert gateway.live == 1


def test_once_the_budget_is_spent_audits_and_erasures_are_watched_until_it_is_stopped(
    gateway: Gateway, tmp_path: Path
) -> None:
    users, told, looks = Users(gateway), list[str](), 0
    users.duels(3, user="gone")
    users.duels(5)
    users.conversations(4, heldout=True)
    needles = texts_of(gateway, "gone")
    bad = 0

    def stopping() -> bool:
        nonlocal looks, bad
        if SPENT not in told:
            return False
        if not looks:
            assert (tmp_path / "summary.json").exists(), "the run is whole whenever it is stopped"
            assert any(needle in (tmp_path / "ledger.sqlite").read_bytes() for needle in needles)
            bad = gateway.publications[-1]["version"]
            gateway.promote(bad)
            for id_ in users.duels(12, audit=True, answered=False):
                next(row for row in gateway.duels if row["completion"] == id_)["first"]["policy_version"] = bad
                gateway.choose(id_, "second")
            gateway.erase("gone")
            users.duels(8)
        looks += 1
        assert looks < 60, "it never saw to it"
        return gateway.state_of(bad) == "withdrawn" and any("were erased" in line for line in told)

    config = live_config(gateway, budget__oracle_queries=8)
    with pytest.raises(Stopped):
        AgentPart(config, tmp_path, Watch(tell=told.append, stopping=stopping)).run()
    assert len(learnt(tmp_path)) == 8, "nothing more is learnt"
    assert found(tmp_path, needles) == set()


# --- killed at any place ---------------------------------------------------------------------------------------------

DEATHS = [
    ("draw", 1, True),
    ("ledger", 1, True),
    ("ledger", 2, False),
    ("ledger", 2, True),
    ("checkpoint", 4, False),
    ("weights", 1, False),
    ("publication", 1, True),
    ("decision", 1, False),
    ("snapshot", 1, True),
    ("update", 1, True),
]


def test_a_killed_agent_loses_and_doubles_nothing(gateway: Gateway, tmp_path: Path) -> None:
    users = Users(gateway)
    answered: list[str] = []
    users.conversations(4, heldout=True)
    budget = 6 * len(DEATHS) + 6
    tree = live_config(gateway, budget__oracle_queries=budget).model_dump(mode="json")
    told: dict[int, tuple[str, int]] = {}
    for death in DEATHS:
        answered += users.duels(6)
        assert exit_code(tree, tmp_path, death) == -9, f"{death}: the agent ended by itself"
        for row in gateway.publications:
            assert told.setdefault(row["version"], (row["checksum"], row["round"])) == (row["checksum"], row["round"])
    answered += users.duels(6)
    assert exit_code(tree, tmp_path) == 0
    assert learnt(tmp_path) == said(gateway, answered)
    versions = [row["version"] for row in gateway.publications]
    assert versions == list(range(1, len(versions) + 1))
    assert len({(row["checksum"], row["round"]) for row in gateway.publications}) == len(versions)
    assert "offered" not in {row["state"] for row in gateway.publications[-1:]}
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == budget


# --- users who want to be forgotten ----------------------------------------------------------------------------------


def texts_of(gateway: Gateway, user: str) -> list[bytes]:
    rows = [row for row in gateway.duels if row["user"] == user]
    prompts = {row["prompt"]["text"] for row in rows}
    tokens = {str(row["prompt"]["token_ids"]) for row in rows}
    responses = {row[side]["text"] for row in rows for side in ("first", "second")}
    return [text.encode() for text in sorted(prompts | tokens | {one for one in responses if len(one) > 12})]


def found(out: Path, needles: list[bytes]) -> set[str]:
    return {path.name for path, content in bytes_of(out).items() for needle in needles if needle in content}


def test_an_erased_user_is_in_no_file_and_the_posterior_never_saw_them(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = Users(gateway)
    theirs, others = users.duels(3, user="gone"), users.duels(9)
    theirs += users.duels(2, user="gone")
    needles = texts_of(gateway, "gone")
    live_to_the_end(live_config(gateway, budget__oracle_queries=14, batch_size=4), tmp_path)
    assert "ledger.sqlite" in found(tmp_path, needles), "there was nothing to erase"
    ids = [id_.encode() + b'"' for id_ in theirs]
    assert {"state.json"} <= found(tmp_path, ids), "no checkpoint knew of them"

    gateway.erase("gone")
    others += users.duels(4)
    scaled: list[Any] = []
    refitted: list[tuple[int, Any]] = []
    scale, refit = LiveSource.scale, LiveRun._refit
    monkeypatch.setattr(LiveSource, "scale", lambda self, number: scaled.append(scale(self, number)) or scaled[-1])

    def noted(self: LiveRun, agent: Any) -> None:
        refit(self, agent)
        refitted.append((agent.rounds, agent.selector.call("state").result()))

    monkeypatch.setattr(LiveRun, "_refit", noted)
    live_to_the_end(live_config(gateway, budget__oracle_queries=18, batch_size=4), tmp_path)
    assert found(tmp_path, needles) == set()
    assert found(tmp_path, ids) <= {"ledger.sqlite"}, "the ledger counts the duel, and nothing else knows of it"

    ((rounds, state),) = refitted
    never = fresh_selector(live_config(gateway))
    never.begin(scaled[0])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        counted = [verdict.annotator for duel, verdict in ledger.rows() if duel.id in theirs and verdict]
        for number, answers in ledger.answers(rounds):
            assert not {duel.id for duel, _ in answers} & set(theirs)
            never.update(answers, number)
    assert counted == ["erased"] * len(theirs)
    assert_same(never.state()["posterior"], state["posterior"])
    assert never.state()["posterior"]["replay"]["ids"]


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one == other


def test_a_user_who_is_erased_while_the_agent_is_dead_between_duel_and_answer_is_left_out(
    gateway: Gateway, tmp_path: Path
) -> None:
    """The duel is in the ledger without its answer when the agent dies; it comes back blank and is passed over."""
    users = Users(gateway)
    users.duels(4, user="gone")
    needles = texts_of(gateway, "gone")
    tree = live_config(gateway, budget__oracle_queries=8).model_dump(mode="json")
    assert exit_code(tree, tmp_path, ("ledger", 1, True)) == -9
    assert found(tmp_path, needles)
    gateway.erase("gone")
    kept = users.duels(8)
    assert exit_code(tree, tmp_path) == 0
    assert found(tmp_path, needles) == set()
    assert {id_: outcome for id_, outcome in learnt(tmp_path).items() if outcome} == said(gateway, kept)


def test_an_operator_who_is_faster_than_the_gate_is_not_an_error(gateway: Gateway) -> None:
    run = LiveRun(live_config(gateway), check(live_config(gateway)), Path("unused"))
    log: LiveLog = run._log
    offered = log.publish("ab", 1, 4, "nowhere")
    assert log.decide(offered.version, "rejected", "no")
    assert not log.decide(offered.version, "live", "yes")
    assert gateway.state_of(offered.version) == "rejected"
