"""Feedback on completions: once, corrected, late, in the right order, by whose they are, and on disk."""

from typing import Any

import httpx
import pytest
from service.conftest import START, Running
from service.live_rows import RUN, Asked, add, begin, chat_key, user_hash
from sqlalchemy import Connection, func, select, update

from sea_agent.service.store import feedback as store
from sea_agent.service.store.database import StoreUnavailable
from sea_agent.service.store.live_tables import completions, feedback
from sea_agent.service.store.tables import queries

pytestmark = pytest.mark.anyio

BODIES = {"thumbs": ({"up": True}, {"up": False}), "edit": ({"text": "é"}, {"text": ""}), "used": ({"used": True},) * 2}
SWAPPED = {"first": "second", "second": "first", "tie": "tie", "both_bad": "both_bad"}


async def say(client: httpx.AsyncClient, completion: str, kind: str = "choice", **body: Any) -> httpx.Response:
    return await client.put(f"/v1/feedback/{completion}/{kind}", json=body)


async def choose(client: httpx.AsyncClient, completion: str, outcome: str) -> tuple[int, dict[str, Any]]:
    answer = await say(client, completion, outcome=outcome)
    return answer.status_code, answer.json()


async def stored(service: Running) -> list[tuple[str, str, bool]]:
    """All feedback as it is kept: kind, value, and whether it holds."""

    def read(connection: Connection) -> list[tuple[str, str, bool]]:
        rows = connection.execute(select(feedback).order_by(feedback.c.number))
        return [(row.kind, row.value, row.is_current) for row in rows]

    return await service.state.database.read(read)


# --- once, and corrected ---------------------------------------------------------------------------------------------


async def test_a_choice_is_one_label_however_often_it_comes(service: Running) -> None:
    key, app = await chat_key(service)
    duel = Asked(1, key, asked="duel")
    await begin(service, duel)
    for status, state in ((201, "new"), (200, "same"), (200, "same")):
        given, body = await choose(app, duel.id, "second")
        assert (given, body["state"], body["late"]) == (status, state, False)
    (entry,) = await service.log(RUN)
    assert (entry["outcome"], entry["annotator"], entry["query_id"]) == ("second", user_hash("u1"), duel.query_id)
    assert (entry["client_key"], entry["kind"], entry["revises"]) == (duel.id, "vote", None)
    query = (await service.admin.get(f"/v1/queries/{duel.query_id}")).json()
    assert query["state"] == "answered"


async def test_a_correction_is_a_revision_and_saying_it_again_adds_nothing(service: Running) -> None:
    key, app = await chat_key(service)
    duel = Asked(1, key, asked="duel", swapped=True)
    await begin(service, duel)
    said = [await choose(app, duel.id, outcome) for outcome in ("first", "tie", "tie", "first")]
    assert [(status, body["state"]) for status, body in said] == [
        (201, "new"),
        (200, "corrected"),
        (200, "same"),
        (200, "corrected"),
    ]
    log = await service.log(RUN)
    assert [entry["outcome"] for entry in log] == ["second", "tie", "second"]
    assert [entry["revises"] for entry in log] == [None, log[0]["label_id"], log[0]["label_id"]]
    assert [is_current for _, _, is_current in await stored(service)] == [False, False, True]


@pytest.mark.parametrize("kind", ["thumbs", "edit", "used"])
async def test_other_feedback_is_kept_and_makes_no_label(service: Running, kind: str) -> None:
    key, app = await chat_key(service)
    plain = Asked(1, key)
    await begin(service, plain)
    one, other = BODIES[kind]
    answers = [await say(app, plain.id, kind, **body) for body in (one, one, other)]
    corrected = "same" if one == other else "corrected"
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    assert [answer.json()["state"] for answer in answers] == ["new", "same", corrected]
    assert sum(is_current for _, _, is_current in await stored(service)) == 1
    assert await service.log(RUN) == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("choice", {"outcome": "third"}),
        ("choice", {}),
        ("thumbs", {"up": 1}),
        ("thumbs", {"outcome": "first"}),
        ("edit", {"text": "a\0b"}),
        ("used", {"used": "yes"}),
    ],
)
async def test_what_is_no_feedback_is_refused(sqlite_service: Running, kind: str, body: dict[str, Any]) -> None:
    key, app = await chat_key(sqlite_service)
    duel = Asked(1, key, asked="duel")
    await begin(sqlite_service, duel)
    assert (await say(app, duel.id, kind, **body)).status_code == 422
    assert await stored(sqlite_service) == []


# --- in which order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", list(SWAPPED))
async def test_what_was_shown_first_is_kept_in_the_duels_own_order(service: Running, outcome: str) -> None:
    key, app = await chat_key(service)
    straight, swapped = Asked(1, key, asked="duel"), Asked(2, key, asked="duel", swapped=True)
    await begin(service, straight, swapped)
    for duel in (straight, swapped):
        assert (await choose(app, duel.id, outcome))[0] == 201
    assert [entry["outcome"] for entry in await service.log(RUN)] == [outcome, SWAPPED[outcome]]
    assert [value for _, value, _ in await stored(service)] == [f'{{"outcome":"{outcome}"}}'] * 2


async def test_a_label_that_ignores_what_was_shown_first_is_seen(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "is_swapped", lambda shown, query: False)
    with pytest.raises(AssertionError, match="first"):
        await test_what_was_shown_first_is_kept_in_the_duels_own_order(sqlite_service, "first")


async def test_responses_that_are_not_the_duels_make_no_label(sqlite_service: Running) -> None:
    key, app = await chat_key(sqlite_service)
    duel = Asked(1, key, asked="duel")
    await begin(sqlite_service, duel)
    other = update(queries).values(first="other", second="still other")
    await sqlite_service.state.database.write(lambda connection: connection.execute(other).rowcount)
    with pytest.raises(RuntimeError, match="not those of its duel"):
        await choose(app, duel.id, "first")
    assert await sqlite_service.log(RUN) == await stored(sqlite_service) == []


# --- late ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_swept", [False, True])
async def test_a_late_choice_counts_and_is_marked(service: Running, is_swept: bool) -> None:
    key, app = await chat_key(service)
    duel = Asked(1, key, asked="duel", patience=60.0)
    await begin(service, duel)
    service.clock.jump(60.0)
    if is_swept:
        await service.admin.post(f"/v1/runs/{RUN}/leases", json={})  # sweeps what has expired
    assert [(status, body["late"]) for status, body in [await choose(app, duel.id, "tie") for _ in range(2)]] == [
        (201, True),
        (200, True),
    ]
    assert (await choose(app, duel.id, "first"))[1]["late"] is True, "a correction of a late one"
    assert [entry["late"] for entry in await service.log(RUN)] == [True, True]
    query = (await service.admin.get(f"/v1/queries/{duel.query_id}")).json()
    assert (query["state"], len(query["votes"])) == ("expired", 2)


async def test_a_choice_at_the_last_moment_is_not_late(sqlite_service: Running) -> None:
    key, app = await chat_key(sqlite_service)
    duel = Asked(1, key, asked="duel", patience=60.0)
    await begin(sqlite_service, duel)
    sqlite_service.clock.jump(59.9)
    assert (await choose(app, duel.id, "tie"))[1]["late"] is False


# --- whose -----------------------------------------------------------------------------------------------------------


async def test_only_the_key_that_asked_gives_feedback_and_an_admin(service: Running) -> None:
    key, app = await chat_key(service)
    _, other = await chat_key(service, "other app")
    duel = Asked(1, key, asked="duel")
    await begin(service, duel)
    assert (await choose(other, duel.id, "first"))[0] == 404
    assert (await choose(app, "chatcmpl-0", "first"))[0] == 404
    assert await service.log(RUN) == []
    assert (await choose(app, duel.id, "first"))[0] == 201
    assert (await choose(other, duel.id, "first"))[0] == 404, "not even that there is one"
    assert (await choose(service.admin, duel.id, "tie"))[0] == 200


async def test_a_key_of_other_runs_gives_none(sqlite_service: Running) -> None:
    key, app = await chat_key(sqlite_service, runs=["elsewhere"])
    admin = await sqlite_service.client("admin", runs=["elsewhere"])
    duel = Asked(1, key, asked="duel")
    await begin(sqlite_service, duel)
    assert [(await choose(client, duel.id, "first"))[0] for client in (app, admin)] == [404, 404]


async def test_a_page_session_gives_feedback_on_what_an_earlier_one_of_its_key_asked(sqlite_service: Running) -> None:
    keyring = sqlite_service.state.keyring
    key, secret = await keyring.make("ann", frozenset({"chat"}))
    duel = Asked(1, key.id, asked="duel")
    await begin(sqlite_service, duel)
    await keyring.sign_out(await keyring.sign_in(secret))
    browser = await sqlite_service.client()
    browser.cookies.set(sqlite_service.state.cookie, await keyring.sign_in(secret))
    browser.headers["Origin"] = "http://service.test"
    assert (await choose(browser, duel.id, "first"))[0] == 201


@pytest.mark.parametrize("state", ["failed", "begun"])
@pytest.mark.parametrize("asked", [None, "duel"])
async def test_what_is_not_complete_takes_no_feedback(service: Running, state: str, asked: str | None) -> None:
    key, app = await chat_key(service)
    await begin(service, Asked(1, key, state=state, asked=asked))
    for kind, body in (("choice", {"outcome": "tie"}), ("thumbs", {"up": True}), ("edit", {"text": "better"})):
        refused = await say(app, Asked(1, key).id, kind, **body)
        assert refused.status_code == 409
        assert "still being answered, or has failed" in refused.json()["detail"]
    assert await stored(service) == []


async def test_where_nobody_was_asked_there_is_nothing_to_choose(service: Running) -> None:
    key, app = await chat_key(service)
    plain = Asked(1, key)
    await begin(service, plain)
    status, problem = await choose(app, plain.id, "first")
    assert (status, "was no duel" in problem["detail"]) == (409, True)
    assert await stored(service) == []
    assert (await say(app, plain.id, "thumbs", up=False)).status_code == 201


async def test_of_what_is_not_stored_no_edit_is_kept(service: Running) -> None:
    key, app = await chat_key(service)
    plain = Asked(1, key, stored=False)
    await begin(service, plain)
    assert (await say(app, plain.id, "edit", text="secret")).status_code == 409
    assert (await say(app, plain.id, "used", used=True)).status_code == 201


async def test_a_duel_of_nobody_named_is_answered_too(service: Running) -> None:
    key, app = await chat_key(service)
    duel = Asked(1, key, asked="duel", user=None)
    await begin(service, duel)
    assert [(await choose(app, duel.id, outcome))[0] for outcome in ("first", "tie")] == [201, 200]
    assert {entry["annotator"] for entry in await service.log(RUN)} == {store.NOBODY}


# --- counted, and on disk --------------------------------------------------------------------------------------------


async def test_each_feedback_is_counted_once(sqlite_service: Running) -> None:
    key, app = await chat_key(sqlite_service)
    duel = Asked(1, key, asked="duel")
    await begin(sqlite_service, duel)
    for outcome in ("first", "first", "tie"):
        await choose(app, duel.id, outcome)
    await say(app, duel.id, "thumbs", up=True)
    text = (await sqlite_service.admin.get("/metrics")).text
    assert 'sea_agent_feedback_total{kind="choice"} 2.0' in text
    assert 'sea_agent_feedback_total{kind="thumbs"} 1.0' in text
    assert 'sea_agent_labels_total{kind="vote"} 1.0' in text
    assert 'sea_agent_labels_total{kind="revision"} 1.0' in text


async def test_a_commit_that_fails_acknowledges_nothing(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, app = await chat_key(sqlite_service)
    duel = Asked(1, key, asked="duel")
    await begin(sqlite_service, duel)
    database = sqlite_service.state.database

    async def fails(function: Any, wake: Any = None) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(database, "write", fails)
        answer = await say(app, duel.id, outcome="first")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert await stored(sqlite_service) == await sqlite_service.log(RUN) == []
    assert (await choose(app, duel.id, "first"))[0] == 201


async def test_who_waits_for_the_label_log_is_woken(sqlite_service: Running) -> None:
    key, app = await chat_key(sqlite_service)
    duel = Asked(1, key, asked="duel")
    await begin(sqlite_service, duel)
    signals = sqlite_service.state.database.signals
    grown = signals.event(("log", RUN))
    await say(app, duel.id, "thumbs", up=True)
    assert not grown.is_set()
    await choose(app, duel.id, "first")
    assert grown.is_set()


async def test_erased_completions_take_no_feedback(service: Running) -> None:
    key, app = await chat_key(service)
    duel = Asked(1, key, asked="duel")
    await begin(service, duel)
    assert (await service.admin.post(f"/v1/queries/{duel.query_id}/erase")).status_code == 200
    assert (await choose(app, duel.id, "first"))[0] == 409
    assert (await say(app, duel.id, "edit", text="again")).status_code == 409


async def test_an_annotator_is_never_given_a_live_duel(service: Running) -> None:
    key, _ = await chat_key(service)
    await begin(service, Asked(1, key, asked="duel"))
    await add(service, Asked(2, key, asked="audit", created_at=START + 1))
    ann = await service.annotator("ann")
    assert (await ann.post(f"/v1/runs/{RUN}/leases", json={})).status_code == 204

    def count(connection: Connection) -> int:
        return connection.execute(select(func.count()).select_from(completions)).scalar_one()

    assert await service.state.database.read(count) == 2
