"""A run whose oracle are people over the feedback service, where everything dies now and then."""

import json
import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from e2e.killed_runs import Lives
from e2e.people import KEY, RUN, Office, Person, give_key
from e2e.test_run import world_config

from oracle import feedback_service
from sea_agent.errors import RunFailure
from sea_agent.persistence.files import LOCK
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.lifecycle import run
from sea_agent.run.session import Watch
from sea_agent.types import Outcome

DUELS = 200


@pytest.fixture(scope="module")
def lives() -> Lives:
    return Lives()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    opened = Office(tmp_path)
    yield opened
    opened.close()


def tree_of(office: Office, duels: int) -> dict[str, Any]:
    settings = {
        "selection": {"rule": "passive"},
        "batch_size": 20,
        "budget__oracle_queries": duels,
        "checkpoint": {"every": 3},
        "oracle": {"kind": "feedback_service", "url": office.url, "run": RUN},
        "evaluation": {},
    }
    return world_config(**settings).model_dump(mode="json")


def answer_while_everything_dies(
    office: Office, lives: Lives, out: Path, tree: dict[str, Any], seed: int, kills: int, start: Any
) -> None:
    """Run to the end; ``kills`` times, when some more answers are there, the run or the service is killed."""
    people = [Person(office, f"person-{number}") for number in range(3)]
    for person in people:
        person.start()
    draw = random.Random(seed)
    total = tree["budget"]["oracle_queries"]
    moments = sorted(draw.sample(range(1, total - 1), kills))
    process = lives.begin(tree, out, None, start)
    try:
        for number, moment in enumerate(moments):
            office.wait_for_labels(moment)
            if number % 2:
                wait_until_at_work(process, out)  # a run that finds no service at its start says so and ends
                office.kill_and_restart()
            else:
                process.kill()
                lives.end(process)
                process = lives.begin(tree, out, None, start)
        assert lives.end(process) == 0
    finally:
        process.kill()
        for person in people:
            person.leave()


def wait_until_at_work(process: BaseProcess, out: Path, seconds: float = 120.0) -> None:
    """Until the process has looked at its inputs and holds the directory of the run."""
    deadline = time.monotonic() + seconds
    while process.is_alive() and (out / LOCK).read_text().strip() != str(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_each_answer_is_used_once(office: Office, out: Path, duels: int) -> None:
    log = [entry for entry in office.log() if entry["kind"] == "vote"]
    by_key = {entry["client_key"]: entry["outcome"] for entry in log}
    assert len(log) == len(by_key) == duels, "a duel was answered twice, or too many were asked"
    assert office.admin.get(f"/v1/runs/{RUN}").json()["queries"] == duels, "a duel was posted twice"
    with Ledger(out / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == duels
        assert {duel.id: verdict.outcome.value for duel, verdict in ledger.rows() if verdict} == by_key


def test_every_answer_is_used_once_and_none_asked_twice_though_run_and_service_are_killed(
    office: Office, lives: Lives, tmp_path: Path
) -> None:
    """The policy ends bit for bit as the one that learns from the same judgement in one undisturbed process."""
    out, tree = tmp_path / "out", tree_of(office, DUELS)
    start = partial(give_key, office.key("experiment", "experiment"))
    answer_while_everything_dies(office, lives, out, tree, seed=5, kills=8, start=start)
    assert_each_answer_is_used_once(office, out, DUELS)
    quiet = world_config(
        selection={"rule": "passive"},
        batch_size=20,
        budget__oracle_queries=DUELS,
        oracle={"kind": "world", "labels": "threshold"},
        evaluation={},
    )
    expected = run(quiet, tmp_path / "quiet")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["policy_checksum"] == expected["policy_checksum"]
    assert summary["oracle_queries"] == expected["oracle_queries"] == DUELS


def test_keys_that_are_not_the_same_after_a_restart_are_seen(office: Office, lives: Lives, tmp_path: Path) -> None:
    out, tree = tmp_path / "out", tree_of(office, 40)
    start = partial(forget_keys, office.key("experiment", "experiment"))
    process = lives.begin(tree, out, None, start)
    office.wait_for_duels(20)  # the first round is posted, and nobody has answered when the run dies
    process.kill()
    lives.end(process)
    answer_while_everything_dies(office, lives, out, tree, seed=5, kills=0, start=start)
    with pytest.raises(AssertionError, match="twice"):
        assert_each_answer_is_used_once(office, out, 40)


def forget_keys(key: str) -> None:
    """Break the client: its duels have other keys in each process."""
    give_key(key)
    salt, query = secrets.token_hex(4), feedback_service._query

    def salted(duel: Any) -> dict[str, Any]:
        made = query(duel)
        return {**made, "client_key": f"{made['client_key']}-{salt}"}

    decided = feedback_service.FeedbackServiceOracle._decided

    def unsalted(self: Any, duels: Any) -> Any:
        for kept in (self._votes, self._needed):
            for name in [name for name in kept if name.endswith(salt)]:
                kept[name.removesuffix(f"-{salt}")] = kept.pop(name)
        return decided(self, duels)

    feedback_service._query = salted
    feedback_service.FeedbackServiceOracle._decided = unsalted  # type: ignore[method-assign]


def test_a_run_that_does_not_wait_learns_from_answers_that_come_later(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, office.key("experiment", "experiment"))
    tree = tree_of(office, 60)
    tree["oracle"] |= {"wait": False, "pending": 40}
    tree["learner"] |= {"max_staleness": 5}
    people = [Person(office, f"person-{number}") for number in range(2)]
    for person in people:
        person.start()
    out = tmp_path / "out"
    summary = run(world_config(**tree), out)
    for person in people:
        person.leave()
    assert summary["oracle_queries"] == 60
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert max(row["open_duels"] for row in rows) > 0
    assert rows[-1]["open_duels"] == 0
    with Ledger(out / "ledger.sqlite") as ledger:
        assert all(verdict is not None for _, verdict in ledger.rows())


def test_a_run_whose_only_annotator_skips_three_duels_ends_with_three_skips(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, office.key("experiment", "experiment"))
    monkeypatch.setattr(feedback_service, "_POLL_SECONDS", 1)
    person = Person(office, "ann", skips=3)
    person.start()
    tree = tree_of(office, 30)
    summary = run(world_config(**tree), tmp_path / "out")
    person.leave()
    assert summary["oracle_queries"] == 30
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        outcomes = Counter(verdict.outcome for _, verdict in ledger.rows() if verdict is not None)
    assert outcomes[Outcome.SKIP] == 3
    assert outcomes.total() == 33


@pytest.mark.parametrize("ending", ["closed", "deleted"])
def test_a_run_that_ends_in_the_service_ends_with_a_message_and_skips(
    ending: str, office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, office.key("experiment", "experiment"))
    monkeypatch.setattr(feedback_service, "_POLL_SECONDS", 1)

    def end(line: str) -> None:
        """The first time that the run says that it waits."""
        if office.admin.get(f"/v1/runs/{RUN}").json().get("state") == "open":
            office.admin.put(f"/v1/runs/{RUN}", json={"state": "closed"}).raise_for_status()
            if ending == "deleted":
                office.admin.delete(f"/v1/runs/{RUN}").raise_for_status()

    with pytest.raises(RunFailure, match=f"was {ending} in the service"):
        run(world_config(**tree_of(office, 30)), tmp_path / "out", watch=Watch(tell=end))
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        outcomes = [verdict and verdict.outcome for _, verdict in ledger.rows()]
    assert Outcome.SKIP in outcomes
    assert set(outcomes) <= {Outcome.SKIP, None}


MINUTE = 60.0


def test_a_run_that_needs_more_people_says_so_within_a_minute(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two votes a duel, and one of two annotators leaves after the first round; then somebody else comes."""
    monkeypatch.setenv(KEY, office.key("experiment", "experiment"))
    tree = tree_of(office, 40)
    tree["oracle"] |= {"votes": 2, "wait_hours": 3 * MINUTE / 3600}
    people = {name: Person(office, name) for name in ("ann", "bob")}
    for person in people.values():
        person.start()
    log: list[tuple[float, str]] = []

    def on_round(row: Any) -> None:
        if row.round == 1:
            office.admin.post("/v1/people/bob/end").raise_for_status()
            people["bob"].leave()

    def tell(line: str) -> None:
        log.append((time.time(), line))
        if "(votes a duel: 2; with a key for this run: ann)" in line and "cem" not in people:
            people["cem"] = Person(office, "cem")
            people["cem"].start()

    summary = run(world_config(**tree), tmp_path / "out", watch=Watch(on_round, tell))
    for name in ("ann", "cem"):
        people[name].leave()
    assert summary["oracle_queries"] == 40
    said = next(at for at, line in log if "with a key for this run: ann)" in line)
    assert said - needed_since(office) < MINUTE, log


def needed_since(office: Office) -> float:
    """When the first duel was there that nobody but ann could answer, by the clock of the service."""
    (ended,) = [key["revoked_at"] for key in office.admin.get("/v1/keys").json()["keys"] if key["annotator"] == "bob"]
    duels = office.admin.get(f"/v1/runs/{RUN}/queries", params={"limit": 500}).json()["queries"]
    first = min(duel["created_at"] for duel in duels if duel["created_at"] > ended)
    return datetime.fromisoformat(first).timestamp()
