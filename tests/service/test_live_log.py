"""What the agent reads: every duel once and in order, nothing that must not be learnt, nothing that was erased."""

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service.conftest import Running
from service.live_rows import RUN, Asked, add, begin, chat_key, completion_row, make_run, query_row, user_hash, write
from sqlalchemy import Connection, create_engine, insert, update
from sqlalchemy.pool import StaticPool

from sea_agent.service.store import live_log
from sea_agent.service.store.live_tables import completions
from sea_agent.service.store.schema import migrate
from sea_agent.service.store.tables import keys, queries

pytestmark = pytest.mark.anyio


async def read(client: httpx.AsyncClient, what: str, **asked: Any) -> dict[str, Any]:
    answer = await client.get(f"/v1/live/{RUN}/{what}", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def duels(service: Running, limit: int = 100) -> list[dict[str, Any]]:
    """All duels, page by page."""
    found: list[dict[str, Any]] = []
    after = 0
    while True:
        page = await read(service.admin, "duels", after=after, limit=limit)
        if not page["duels"]:
            assert page["next_after"] == after
            return found
        found += page["duels"]
        after = page["next_after"]


# --- duels -----------------------------------------------------------------------------------------------------------


async def test_a_duel_has_all_that_the_agent_needs_in_its_own_order(service: Running) -> None:
    key, _ = await chat_key(service)
    agent = await service.client("experiment")
    await begin(service, Asked(1, key), Asked(2, key, asked="duel"), Asked(3, key, asked="duel", swapped=True))
    straight, swapped = (await read(agent, "duels"))["duels"]
    first = {"id": "response-3-0", "text": "first 3", "token_ids": [0], "logprobs": [-0.5], "policy_version": 1}
    second = {"id": "response-3-1", "text": "second 3", "token_ids": [1], "logprobs": [-0.5], "policy_version": 0}
    assert swapped == {
        "number": swapped["number"],
        "completion": Asked(3, key).id,
        "query_id": Asked(3, key).query_id,
        "user": user_hash("u1"),
        "audit": False,
        "by_chance": False,
        "prompt": {"text": "prompt 3", "token_ids": [7, 3], "messages": [{"role": "user", "content": "prompt 3"}]},
        "first": first,
        "second": second,
        "information": 0.25,
        "policy_version": 0,
        "at": "2027-01-15T08:00:00.000Z",
    }
    assert (straight["first"]["text"], straight["second"]["text"]) == ("first 2", "second 2")
    assert straight["number"] < swapped["number"]


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_pages_have_every_duel_once_and_in_order(service: Running, limit: int) -> None:
    key, _ = await chat_key(service)
    asked = [Asked(n, key, asked=(None, "duel", "audit")[n % 3]) for n in range(20)]
    await begin(service, *asked)
    await service.run("batch")
    await service.post(3, "batch")
    await add(service, *(Asked(n, key, asked="duel") for n in range(20, 23)))
    found = await duels(service, limit)
    wanted = [one.id for one in asked if one.asked] + [Asked(n, key).id for n in range(20, 23)]
    assert [duel["completion"] for duel in found] == wanted


async def test_audits_are_told_apart(service: Running) -> None:
    key, _ = await chat_key(service)
    await begin(service, *(Asked(n, key, asked=("duel", "audit")[n % 2]) for n in range(6)))
    assert [duel["audit"] for duel in await duels(service)] == [False, True] * 3


async def test_what_was_erased_is_in_no_page_and_the_others_are(service: Running) -> None:
    key, app = await chat_key(service)
    await begin(service, *(Asked(n, key, user=f"u{n % 3}", asked="duel") for n in range(9)))
    assert (await app.delete("/v1/users/u1")).status_code == 200
    assert [duel["completion"] for duel in await duels(service, 2)] == [
        Asked(n, key).id for n in range(9) if n % 3 != 1
    ]


async def test_only_the_agent_and_admins_read_texts(sqlite_service: Running) -> None:
    key, app = await chat_key(sqlite_service)
    await begin(sqlite_service, Asked(1, key, asked="duel"))
    reader = await sqlite_service.client("read")
    for what in ("duels", "prompts", "erased"):
        assert [(await client.get(f"/v1/live/{RUN}/{what}")).status_code for client in (reader, app)] == [403, 403]


# --- no gap, however requests end ------------------------------------------------------------------------------------


def reader(connection: Connection, key: str, lengths: Sequence[int]) -> list[str]:
    """Requests begin in order and end in another, read meanwhile; the ids that a reader with a cursor has seen."""
    migrate(connection)
    connection.execute(
        insert(keys),
        {"id": key, "name": "app", "annotator": "app", "scopes": "chat", "digest": "d", "created_at": 0.0},
    )
    make_run(connection)
    requests = [Asked(number, key, state="begun") for number in range(len(lengths))]
    write(connection, requests)
    seen, after = [], 0
    for number in sorted(range(len(lengths)), key=lambda n: (lengths[n], n)):
        done = Asked(number, key, asked="duel")
        end(connection, done)
        rows = live_log.duels(connection, RUN, after, 2)
        seen += [row["completion"] for row in rows]
        after = rows[-1]["number"] if rows else after
    while rows := live_log.duels(connection, RUN, after, 2):
        seen += [row["completion"] for row in rows]
        after = rows[-1]["number"]
    return seen


def end(connection: Connection, done: Asked) -> None:
    """What the gateway writes when a request ends in a duel."""
    connection.execute(insert(queries), query_row(done))
    connection.execute(update(completions).where(completions.c.id == done.id).values(completion_row(done)))


def lost(lengths: Sequence[int]) -> set[str]:
    """Duels that the reader has not seen, or not once."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.connect() as connection:
        seen = reader(connection, "key-0", lengths)
    engine.dispose()
    wanted = [Asked(number, "key-0").id for number in range(len(lengths))]
    return {name for name in wanted if seen.count(name) != 1}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_no_duel_is_passed_over_in_whichever_order_requests_end(lengths: list[int]) -> None:
    assert lost(lengths) == set()


def test_a_cursor_by_when_requests_began_loses_some(monkeypatch: pytest.MonkeyPatch) -> None:
    number = completions.c.number
    columns = [number if c.name == "number" else c for c in live_log._DUELS.selected_columns]
    by_begin = live_log._DUELS.with_only_columns(*columns).order_by(None).order_by(number)

    def begun(connection: Connection, run: str, after: int, limit: int) -> list[dict[str, Any]]:
        rows = connection.execute(by_begin.where(number > after).limit(limit))
        return [live_log._duel(row) for row in rows]

    monkeypatch.setattr(live_log, "duels", begun)
    assert lost([3, 2, 1]) != set()


# --- conversations ---------------------------------------------------------------------------------------------------


async def prompts(service: Running, **asked: Any) -> list[str]:
    page = await read(service.admin, "prompts", **asked)
    assert page["next_after"] == (page["prompts"][-1]["number"] if page["prompts"] else asked.get("after", 0))
    return [prompt["completion"] for prompt in page["prompts"]]


async def test_conversations_to_learn_from_and_those_that_are_held_out_are_apart(service: Running) -> None:
    key, app = await chat_key(service)
    asked = [
        Asked(0, key),
        Asked(1, key, heldout=True),
        Asked(2, key, stored=False),
        Asked(3, key, state="begun"),
        Asked(4, key, state="failed"),
        Asked(5, key, user="gone"),
        Asked(6, key, user="gone", heldout=True),
        Asked(7, key, asked="duel"),
    ]
    await begin(service, *asked)
    assert await prompts(service) == [asked[n].id for n in (0, 5, 7)]
    assert await prompts(service, heldout=True) == [asked[n].id for n in (1, 6)]
    await app.delete("/v1/users/gone")
    for mode in ({}, {"after": 0}):
        assert await prompts(service, **mode) == [asked[n].id for n in (0, 7)]
        assert await prompts(service, heldout=True, **mode) == [asked[1].id]


async def test_a_conversation_of_several_turns_is_there_once_with_its_newest(service: Running) -> None:
    key, _ = await chat_key(service)
    await begin(service, *(Asked(n, key, conversation=f"c{n % 3}") for n in range(9)))
    assert await prompts(service, limit=500) == [Asked(n, key).id for n in (6, 7, 8)]
    assert await prompts(service, limit=2) == [Asked(n, key).id for n in (7, 8)]


async def test_conversations_after_a_number_come_page_by_page(service: Running) -> None:
    key, _ = await chat_key(service)
    await begin(service, *(Asked(n, key, conversation=f"c{n}") for n in range(7)))
    seen: list[str] = []
    after = 0
    while page := (await read(service.admin, "prompts", after=after, limit=2))["prompts"]:
        seen += [prompt["completion"] for prompt in page]
        after = page[-1]["number"]
        assert page[0].keys() == {"number", "completion", "user", "text", "token_ids", "messages", "at"}
    assert seen == [Asked(n, key).id for n in range(7)]


# --- thumbs ----------------------------------------------------------------------------------------------------------


async def test_thumbs_are_rows_for_kto_without_what_must_not_be_learnt(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, app = await chat_key(service)
    asked = [
        Asked(0, key),
        Asked(1, key, heldout=True),
        Asked(2, key, asked="audit"),
        Asked(3, key, user="gone"),
        Asked(4, key, asked="duel", swapped=True),
        Asked(5, key, stored=False),
        Asked(6, key),
    ]
    await begin(service, *asked)
    for one in asked[:6]:
        for up in (True, one.number % 2 == 0):
            await app.put(f"/v1/feedback/{one.id}/thumbs", json={"up": up})
    await app.put(f"/v1/feedback/{asked[6].id}/used", json={"used": True})
    await app.delete("/v1/users/gone")
    monkeypatch.setattr("sea_agent.service.routes.live.PAGE", 1)
    answer = await service.admin.get(f"/v1/live/{RUN}/thumbs")
    assert answer.headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [(row["completion_id"], row["label"]) for row in rows] == [(asked[0].id, True), (asked[4].id, True)]
    assert rows[1] == {
        "prompt": [{"role": "user", "content": "prompt 4"}],
        "completion": [{"role": "assistant", "content": "second 4"}],
        "label": True,
        "completion_id": asked[4].id,
        "user": user_hash("u1"),
        "policy_version": 0,
        "at": rows[1]["at"],
    }
