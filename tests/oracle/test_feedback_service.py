"""The feedback service as an oracle: what people say together, and what goes wrong with a service."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e.people import KEY, RUN, Office
from made_duels import duel

from oracle import feedback_service, make_oracle
from oracle.base import Oracle
from sea_agent.config import FeedbackServiceOracleConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.types import Duel, Outcome

Make = Callable[..., Oracle]


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    opened = Office(tmp_path_factory.mktemp("office"))
    yield opened
    opened.close()


@pytest.fixture
def make(office: Office, monkeypatch: pytest.MonkeyPatch) -> Make:
    """An oracle over the service that does not wait long."""
    monkeypatch.setenv(KEY, office.key("experiment", "experiment"))
    monkeypatch.setattr(feedback_service, "_POLL_SECONDS", 0)
    monkeypatch.setattr(feedback_service, "_RETRY_SECONDS", 0.5)

    def of(key: str | None = None, **settings: Any) -> Oracle:
        if key is not None:
            monkeypatch.setenv(KEY, key)
        config = FeedbackServiceOracleConfig(kind="feedback_service", **{"url": office.url, "run": RUN} | settings)
        return make_oracle(config, seed=0, device="cpu")

    return of


def of_texts(name: str, first: str, second: str) -> Duel:
    """A duel between two texts."""
    one = duel(name)
    return replace(one, first=replace(one.first, text=first), second=replace(one.second, text=second))


def vote(office: Office, run: str, duel_id: str, **outcomes: str) -> None:
    """Annotators answer a duel in its own order."""
    labels = [{"client_key": duel_id, "outcome": said, "annotator": who} for who, said in outcomes.items()]
    headers = {"Idempotency-Key": f"{duel_id}-{'-'.join(outcomes)}"}
    office.admin.post(f"/v1/runs/{run}/labels:batch", json={"labels": labels}, headers=headers).raise_for_status()


@pytest.mark.parametrize(
    ("said", "min_agreement", "expected"),
    [
        ({"ann": "first", "bob": "first", "cem": "second"}, 0.5, Outcome.FIRST),
        ({"ann": "first", "bob": "first", "cem": "second"}, 0.7, Outcome.TIE),
        ({"ann": "second", "bob": "second", "cem": "second"}, 1.0, Outcome.SECOND),
        ({"ann": "first", "bob": "second", "cem": "tie"}, 0.0, Outcome.TIE),
        ({"ann": "both_bad", "bob": "both_bad", "cem": "first"}, 0.5, Outcome.BOTH_BAD),
    ],
)
def test_the_majority_decides_if_enough_agree(
    said: dict[str, str], min_agreement: float, expected: Outcome, make: Make, office: Office
) -> None:
    run = f"votes-{expected}-{min_agreement}"
    oracle = make(run=run, votes=3, min_agreement=min_agreement)
    assert oracle.ask([duel("d")]) == []
    for who, outcome in list(said.items())[:2]:
        vote(office, run, "d", **{who: outcome})
    assert oracle.ask([duel("d")]) == [], "two of three votes decide nothing yet"
    vote(office, run, "d", **dict(list(said.items())[2:]))
    (verdict,) = oracle.ask([duel("d")])
    assert (verdict.outcome, verdict.votes, verdict.annotator) == (expected, 3, "ann, bob, cem")
    assert {answer.annotator: answer.outcome for answer in verdict.answers} == said
    assert oracle.queries == 1


def test_a_correction_before_the_decision_counts(make: Make, office: Office) -> None:
    oracle = make(run="revised", votes=2)
    oracle.ask([duel("d")])
    vote(office, "revised", "d", ann="first")
    (entry,) = office.admin.get("/v1/runs/revised/labels").json()["labels"]
    office.admin.post(f"/v1/labels/{entry['label_id']}/revisions", json={"outcome": "second"}).raise_for_status()
    assert oracle.ask([duel("d")]) == []
    vote(office, "revised", "d", bob="second")
    (verdict,) = oracle.ask([duel("d")])
    assert (verdict.outcome, verdict.votes) == (Outcome.SECOND, 2)


def test_a_correction_under_another_name_is_no_further_vote(make: Make, office: Office) -> None:
    oracle = make(run="renamed", votes=2)
    oracle.ask([duel("d")])
    vote(office, "renamed", "d", dora="first")
    assert oracle.ask([duel("d")]) == []
    pseudonym = office.admin.post("/v1/people/dora/erase").raise_for_status().json()["pseudonym"]
    (entry,) = office.admin.get("/v1/runs/renamed/labels").json()["labels"]
    office.admin.post(f"/v1/labels/{entry['label_id']}/revisions", json={"outcome": "second"}).raise_for_status()
    assert oracle.ask([duel("d")]) == [], "it still is one vote"
    vote(office, "renamed", "d", emil="second")
    (verdict,) = oracle.ask([duel("d")])
    assert (verdict.outcome, verdict.votes) == (Outcome.SECOND, 2)
    assert {answer.annotator for answer in verdict.answers} == {pseudonym, "emil"}


def test_a_new_process_finds_duels_and_answers_again(make: Make, office: Office) -> None:
    make(run="again").ask([duel("d"), duel("e")])
    vote(office, "again", "d", ann="second")
    answers = make(run="again").ask([duel("d"), duel("e")])
    assert [(verdict.duel_id, verdict.outcome) for verdict in answers] == [("d", Outcome.SECOND)]
    assert office.admin.get("/v1/runs/again").json()["queries"] == 2


def test_a_duel_that_was_cancelled_in_the_service_is_not_waited_for(make: Make, office: Office) -> None:
    oracle = make(run="cancelled")
    assert oracle.ask([duel("d")]) == []
    (query,) = oracle._posted.values()  # type: ignore[attr-defined]
    office.admin.post(f"/v1/queries/{query}/cancel").raise_for_status()
    assert [verdict.outcome for verdict in oracle.ask([duel("d")])] == [Outcome.SKIP]


def test_a_duel_that_somebody_let_need_fewer_votes_is_decided_by_those_there_are(make: Make, office: Office) -> None:
    oracle = make(run="fewer", votes=2)
    assert oracle.ask([duel("d"), duel("e")]) == []
    vote(office, "fewer", "d", ann="second")
    assert oracle.ask([duel("d"), duel("e")]) == []
    query = oracle._posted["d"]  # type: ignore[attr-defined]
    office.admin.patch(f"/v1/queries/{query}", json={"votes_needed": 1}).raise_for_status()
    (verdict,) = oracle.ask([duel("d"), duel("e")])
    assert (verdict.duel_id, verdict.outcome, verdict.votes) == ("d", Outcome.SECOND, 1)


OPERATORS = {
    "name": "Kitchen",
    "instructions": "Prefer what you would rather cook from.",
    "examples": [{"prompt": "Salt?", "first": "A pinch.", "second": "No.", "outcome": "first", "why": ""}],
    "votes_needed": 2,
    "repeat_share": 0.2,
    "gold_share": 0.3,
    "qualification": 4,
    "qualifying_share": 0.9,
    "retention_days": 30.0,
    "state": "paused",
}
"""Everything that an operator can say of a run."""


def told(office: Office, run: str) -> dict[str, Any]:
    """What the service says of a run, of what an operator can say."""
    found = office.admin.get(f"/v1/runs/{run}").raise_for_status().json()
    return {name: found[name] for name in OPERATORS}


def test_a_new_run_gets_what_the_configuration_sets(make: Make, office: Office) -> None:
    make(run="new", instructions="Be kind.", votes=3).ask([duel("d")])
    assert (told(office, "new")["instructions"], told(office, "new")["votes_needed"]) == ("Be kind.", 3)
    make(run="plain").ask([duel("d")])
    assert (told(office, "plain")["instructions"], told(office, "plain")["votes_needed"]) == ("", 1)


def test_an_experiment_that_sets_nothing_leaves_a_run_as_its_operator_made_it(make: Make, office: Office) -> None:
    office.admin.put("/v1/runs/prepared", json=OPERATORS).raise_for_status()
    oracle = make(run="prepared")
    assert oracle.ask([duel("d")]) == []
    assert told(office, "prepared") == OPERATORS
    vote(office, "prepared", "d", ann="first")
    assert oracle.ask([duel("d")]) == [], "the operator asked for two votes"
    vote(office, "prepared", "d", bob="first")
    (verdict,) = oracle.ask([duel("d")])
    assert verdict.votes == 2


def test_guidelines_that_an_operator_wrote_before_the_first_duel_stay_and_the_votes_are_the_experiments(
    make: Make, office: Office
) -> None:
    office.admin.put("/v1/runs/written", json=OPERATORS).raise_for_status()
    make(run="written", instructions="Be kind.", votes=3).ask([duel("d")])
    assert told(office, "written") == OPERATORS | {"votes_needed": 3}
    office.admin.put("/v1/runs/invited", json={"name": "Invited"}).raise_for_status()
    make(run="invited", instructions="Be kind.").ask([duel("d")])
    assert told(office, "invited")["instructions"] == "Be kind.", "nobody wrote any"


@pytest.mark.parametrize("instructions", ["Be quick.", ""])
def test_what_an_operator_changed_during_a_run_is_there_after_a_resume(
    instructions: str, make: Make, office: Office
) -> None:
    run = f"changed-{len(instructions)}"
    make(run=run, instructions="Be kind.", votes=1).ask([duel("d")])
    changed = OPERATORS | {"instructions": instructions}
    office.admin.put(f"/v1/runs/{run}", json=changed).raise_for_status()
    resumed = make(run=run, instructions="Be kind.", votes=1)
    assert resumed.ask([duel("d"), duel("e")]) == []
    assert told(office, run) == changed
    vote(office, run, "d", ann="first")
    vote(office, run, "e", ann="first")
    assert [verdict.duel_id for verdict in resumed.ask([duel("d"), duel("e")])] == ["d"], "the new one needs two"


def test_a_client_that_says_everything_again_at_each_start_is_noticed(
    make: Make, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the tests above."""
    monkeypatch.setattr(feedback_service.FeedbackServiceOracle, "_run", lambda self: None)
    office.admin.put("/v1/runs/wiped", json=OPERATORS).raise_for_status()
    make(run="wiped", instructions="Be kind.", votes=1).ask([duel("d")])
    assert told(office, "wiped") != OPERATORS


def test_duels_that_wait_for_somebody_without_a_key_say_what_can_be_done(make: Make, office: Office) -> None:
    office.key("ann", "annotate")
    oracle = make(run="for-nobody")
    assert oracle.waiting() == "", "nothing is known yet"
    assert oracle.ask([duel("d")]) == []
    assert "more votes" not in oracle.waiting()
    query = oracle._posted["d"]  # type: ignore[attr-defined]
    office.admin.patch(f"/v1/queries/{query}", json={"assigned": ["nobody"]}).raise_for_status()
    assert oracle.ask([duel("d")]) == []
    assert "1 of them need more votes" in oracle.waiting()
    assert "make a key for somebody else, take back what was handed out, or cancel them." in oracle.waiting()


def key_for(office: Office, run: str, name: str) -> None:
    """Let somebody answer a run."""
    office.admin.post("/v1/people", json={"annotator": name, "runs": [run]}).raise_for_status()


def test_an_experiment_that_waits_says_who_can_answer(make: Make, tmp_path_factory: pytest.TempPathFactory) -> None:
    quiet = Office(tmp_path_factory.mktemp("quiet"))
    try:
        oracle = make(run="who", url=quiet.url, key=quiet.key("experiment", "experiment"), votes=2)
        assert oracle.ask([duel("d")]) == []
        assert oracle.waiting() == "Nobody has a key to annotate this run: make one, and send it to somebody."
        for name in ("Bob", "Ann", "cem"):
            key_for(quiet, "who", name)
        key_for(quiet, "elsewhere", "dan")
        assert oracle.ask([duel("d")]) == []
        assert oracle.waiting() == "With a key for this run: Ann, Bob, cem."
        quiet.admin.put("/v1/runs/who/assignments", json={"annotators": ["Ann", "Bob"]}).raise_for_status()
        quiet.admin.post("/v1/people/Bob/end").raise_for_status()
        assert oracle.ask([duel("d")]) == []
        assert "(votes a duel: 2; with a key for this run: Ann)" in oracle.waiting()
        quiet.admin.delete("/v1/runs/who/assignments").raise_for_status()
        for number in range(9):
            key_for(quiet, "who", f"p{number}")
        assert oracle.ask([duel("d")]) == []
        assert oracle.waiting() == "With a key for this run: Ann, cem, p0, p1, p2, p3, p4 and 4 others."
    finally:
        quiet.close()


def test_a_client_that_does_not_ask_who_can_answer_is_noticed(
    make: Make, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(feedback_service, "_names", len)
    key_for(office, "counted", "ann")
    oracle = make(run="counted")
    assert oracle.ask([duel("d")]) == []
    assert "ann" not in oracle.waiting()


def turn(office: Office, run: str, state: str) -> None:
    office.admin.put(f"/v1/runs/{run}", json={"state": state}).raise_for_status()


def test_a_paused_run_is_waited_for_and_says_the_same_all_the_while(make: Make, office: Office) -> None:
    oracle = make(run="paused")
    assert oracle.ask([duel("d")]) == []
    assert "paused" not in oracle.waiting()
    turn(office, "paused", "paused")
    said = set()
    for _ in range(2):
        assert oracle.ask([duel("d"), duel("e")]) == [], "new duels are taken"
        said.add(oracle.waiting())
    assert said == {"The run is paused in the service: nobody gets a duel until it is opened again."}
    turn(office, "paused", "open")
    assert oracle.ask([duel("d"), duel("e")]) == []
    assert "paused" not in oracle.waiting()
    vote(office, "paused", "d", ann="first")
    assert [verdict.outcome for verdict in oracle.ask([duel("d"), duel("e")])] == [Outcome.FIRST]


@pytest.mark.parametrize("state", ["closed", "archived"])
def test_what_a_closed_run_left_unanswered_is_skipped_and_new_duels_end_the_run(
    state: str, make: Make, office: Office
) -> None:
    oracle = make(run=state)
    assert oracle.ask([duel("d"), duel("e")]) == []
    vote(office, state, "d", ann="first")
    turn(office, state, state)
    assert [verdict.outcome for verdict in oracle.ask([duel("d"), duel("e")])] == [Outcome.FIRST], (
        "what is there counts"
    )
    assert [(verdict.duel_id, verdict.outcome) for verdict in oracle.ask([duel("e")])] == [("e", Outcome.SKIP)]
    assert oracle.queries == 1
    with pytest.raises(RunFailure, match=rf"was {state} in the service.*Open it again there, and go on with"):
        oracle.ask([duel("f")])
    turn(office, state, "open")
    assert oracle.ask([duel("f")]) == []


def test_what_a_deleted_run_left_unanswered_is_skipped_and_new_duels_end_the_run(make: Make, office: Office) -> None:
    oracle = make(run="deleted")
    assert oracle.ask([duel("d"), duel("e")]) == []
    turn(office, "deleted", "closed")
    office.admin.delete("/v1/runs/deleted").raise_for_status()
    assert [verdict.outcome for verdict in oracle.ask([duel("d"), duel("e")])] == [Outcome.SKIP] * 2
    with pytest.raises(RunFailure, match=r"was deleted in the service.*To make it anew go on with `sea-agent resume`"):
        oracle.ask([duel("f")])
    assert make(run="deleted").ask([duel("f")]) == [], "a new process makes it anew"


def test_a_run_that_is_deleted_under_a_waiting_reader_ends_the_wait(
    make: Make, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = make(run="vanishing")
    assert oracle.ask([duel("d")]) == []
    turn(office, "vanishing", "closed")
    monkeypatch.setattr(feedback_service, "_POLL_SECONDS", 25)
    deletes = threading.Timer(1.0, lambda: office.admin.delete("/v1/runs/vanishing").raise_for_status())
    deletes.start()
    began = time.monotonic()
    assert [verdict.outcome for verdict in oracle.ask([duel("d")])] == [Outcome.SKIP]
    deletes.join()
    assert time.monotonic() - began < 20, "at once, not when the wait was over"


def test_what_made_a_response_does_not_leave_the_run(make: Make, office: Office) -> None:
    make(run="blind").ask([duel("d")])
    key = office.key("blind-person", "annotate")
    with httpx.Client(base_url=office.url, headers={"Authorization": f"Bearer {key}"}) as person:
        lease = person.post("/v1/runs/blind/leases", json={}).json()
    assert {"rule", "policy_version", "score", "client_key"}.isdisjoint(lease)


def test_a_service_that_does_not_answer_leaves_duels_open(make: Make, office: Office) -> None:
    oracle = make(run="away")
    oracle.ask([duel("d")])
    vote(office, "away", "d", ann="first")
    office.process.end()
    assert oracle.ask([duel("d")]) == []
    office.kill_and_restart()
    assert [verdict.outcome for verdict in oracle.ask([duel("d")])] == [Outcome.FIRST]
    assert oracle.queries == 1


def test_another_run_under_the_same_name_is_refused(make: Make) -> None:
    make(run="taken").ask([duel("d")])
    with pytest.raises(RunFailure, match=r"Another run used the same oracle\.run"):
        make(run="taken").ask([of_texts("d", "w1", "w9")])


def test_people_are_not_asked_to_evaluate(make: Make) -> None:
    oracle = make(run="evaluation")
    assert oracle.evaluates is False
    with pytest.raises(ValueError, match="not asked to evaluate"):
        oracle.evaluate([duel("d").public()])


def test_a_missing_key_a_wrong_one_and_a_wrong_address_are_told(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no feedback service answers there"):
        make(url="http://127.0.0.1:9")
    monkeypatch.setenv(KEY, "sea_wrong")
    with pytest.raises(UserError, match=rf"{KEY}: the feedback service refuses this key") as caught:
        make()
    assert "sea_wrong" not in str(caught.value)
    monkeypatch.delenv(KEY)
    with pytest.raises(UserError, match=rf"{KEY} is not set"):
        make()


def test_many_and_long_duels_go_in_batches_that_the_service_takes(make: Make, office: Office) -> None:
    texts = [("w1 " * 20_000 + str(number), "w2") for number in range(40)]
    duels = [of_texts(f"long-{number}", *pair) for number, pair in enumerate(texts)]
    many = [duel(f"many-{number}") for number in range(1200)]
    make(run="batches").ask(duels + many)
    assert office.admin.get("/v1/runs/batches").json()["queries"] == 1240
