"""Of a user who is erased no byte is left, in any file of the database or answer; counts and labels stay."""

import json
import logging
import string
from random import Random
from typing import Any

import httpx
import psycopg
import pytest
from service.conftest import START, Running
from service.live_rows import RUN, Asked, add, begin, chat_key, know, make_run, user_hash, write
from service.test_erased_bytes import holding
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.engine import make_url

from sea_agent.service.erasing import purge_files
from sea_agent.service.store import completion_texts, live_erasure, purge, tables
from sea_agent.service.store.live_tables import (
    completions,
    feedback,
    implicit_choices,
    live_users,
    metadata,
    publications,
)
from sea_agent.service.store.tables import labels

pytestmark = pytest.mark.anyio

DAY = 86_400.0
SAID, EDIT, COMMENT = (f"{what} of Xanthippe" for what in ("said", "edit", "comment"))
NAME = "xanthippe@example.org"
TRACES = (SAID, EDIT, COMMENT, NAME, user_hash(NAME))
OTHER = "said of Socrates"


def of_user(key: str, count: int, *, user: str, said: str, start: int = 0) -> list[Asked]:
    """Requests of a user; every other one is a duel, some of them audits, some held out, some not stored."""
    kinds: dict[int, dict[str, Any]] = {0: {"asked": "duel"}, 2: {"asked": "audit"}, 4: {"asked": "duel"}}
    kinds |= {1: {"heldout": True}, 3: {"stored": False}, 5: {"state": "begun"}}
    return [
        Asked(
            number,
            key,
            user=user,
            # Long ones are stored outside of their row, and no shorter when they are compressed.
            said=f" {said} " + "".join(Random(number).choices(string.ascii_letters + string.digits, k=4000)),
            swapped=number % 4 == 0,
            conversation=f"{said} {number}",
            regret=0.1,
            created_at=START + number,
            **kinds[number % 6],
        )
        for number in range(start, start + count)
    ]


async def filled(service: Running, count: int = 30) -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
    """Two apps whose users wrote and gave feedback, looked at by the planner; their clients."""
    (key, app), (other_key, other) = await chat_key(service, "one"), await chat_key(service, "other")
    hers, his = (
        of_user(key, count, user=NAME, said=SAID),
        of_user(other_key, count, user="socrates", said=OTHER, start=100),
    )
    await begin(service, *hers, *his)
    await service.state.database.write(lambda connection: know(connection, NAME, asks=False))
    for client, requests in ((app, hers), (other, his)):
        for asked in (asked for asked in requests if asked.state == "done"):
            if asked.asked is not None:
                outcome = ("first", "second", "tie", "both_bad")[asked.number // 2 % 4]
                await said(client, asked, "choice", outcome=outcome)
            await said(client, asked, "thumbs", up=asked.number % 3 == 0)
            if asked.stored:
                await said(client, asked, "edit", text=f"{EDIT if client is app else OTHER} {asked.number}")
    comment = update(labels).where(labels.c.annotator == user_hash(NAME)).values(comment=COMMENT)
    await service.state.database.write(lambda connection: connection.execute(comment).rowcount)
    if service.state.settings.url.startswith("postgresql"):  # it keeps frequent values, and writes pages out later
        owner = make_url(service.state.settings.url).set(username="postgres").render_as_string(hide_password=False)
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute("ANALYZE")
            connection.execute("CHECKPOINT")
    return app, other


async def said(client: httpx.AsyncClient, asked: Asked, kind: str, **body: Any) -> None:
    answer = await client.put(f"/v1/feedback/{asked.id}/{kind}", json=body)
    assert answer.status_code == 201, answer.text


async def erase(client: httpx.AsyncClient, user: str = NAME) -> httpx.Response:
    return await client.delete(f"/v1/users/{user}")


async def everything(service: Running) -> str:
    """Every value of every table, as text."""

    def read(connection: Connection) -> str:
        rows = [list(connection.execute(select(table)).all()) for table in metadata.tables.values()]
        return repr(rows)

    return await service.state.database.read(read)


async def told(service: Running) -> str:
    """All that the service tells of the run."""
    paths = (
        "duels?limit=500",
        "prompts?limit=500",
        "prompts?limit=500&after=0&heldout=true",
        "thumbs",
        "implicit",
        "erased",
    )
    asked = [f"/v1/live/{RUN}/{path}" for path in (*paths, "summary", "publications")]
    asked += [f"/v1/runs/{RUN}/{path}" for path in ("labels", "export.jsonl?ties=keep", "queries", "annotators")]
    answers = [await service.admin.get(path) for path in (*asked, "/v1/people", "/metrics")]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    return "\n".join(answer.text for answer in answers)


async def figures(service: Running) -> dict[str, Any]:
    """What erasing must not change: counts, and labels without their annotators."""
    summary = (await service.admin.get(f"/v1/live/{RUN}/summary")).json()
    summary["live"].pop("erasures")
    for share in summary["users"]["most"]:
        share.pop("user")
    log = [{k: v for k, v in entry.items() if k not in ("annotator", "comment")} for entry in await service.log(RUN)]
    progress = (await service.admin.get(f"/v1/runs/{RUN}/progress")).json()
    return {"summary": summary, "log": log, "answered": progress["answered"], "labels": progress["labels"]}


# --- nothing is left, and nothing else is lost -----------------------------------------------------------------------


async def test_of_a_user_nothing_is_left_and_counts_and_labels_stay(
    service: Running, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sea_agent")
    app, _ = await filled(service)
    assert {text for _, text in holding(database_url, *TRACES)} == {*TRACES} - {NAME}, "a name is never kept"
    before, log_before = await figures(service), await service.log(RUN)
    answer = await erase(app)
    assert (answer.status_code, answer.json()["left"]) == (200, [])
    assert (answer.json()["completions"], answer.json()["answers"]) == (30, 15)
    assert holding(database_url, *TRACES) == set()
    seen = await everything(service) + await told(service) + caplog.text
    assert not any(trace in seen for trace in TRACES)
    assert OTHER in seen
    after = await figures(service)
    assert {name: value for name, value in after["summary"].items() if value != before["summary"][name]} == {}
    assert after == before
    names = {entry["annotator"] for entry in await service.log(RUN)}
    assert names - {user_hash("socrates")} == {name for name in names if name.startswith("erased-")}
    assert len(names) == len({entry["annotator"] for entry in log_before}) == 2


async def test_the_texts_of_others_stay(service: Running) -> None:
    app, _ = await filled(service, 6)
    before = {row["completion"]: row for row in await pages(service)}
    await erase(app)
    after = {row["completion"]: row for row in await pages(service)}
    assert after == {name: row for name, row in before.items() if OTHER in row["prompt"]["text"]}
    assert 0 < len(after) < len(before)


async def pages(service: Running) -> list[dict[str, Any]]:
    return (await service.admin.get(f"/v1/live/{RUN}/duels", params={"limit": 500})).json()["duels"]


async def test_a_user_of_a_batch_run_is_no_user_here_and_its_texts_go_with_the_run(
    service: Running, database_url: str
) -> None:
    await filled(service, 12)
    assert (await service.admin.post(f"/v1/runs/{RUN}/erase")).json()["left"] == []
    assert holding(database_url, SAID, OTHER, EDIT) == set()
    assert await pages(service) == []


async def test_a_duel_that_is_erased_takes_its_request_along(service: Running, database_url: str) -> None:
    key, _ = await chat_key(service)
    one, other = (Asked(n, key, asked="duel", said=f" {said}") for n, said in enumerate((SAID, OTHER)))
    await begin(service, one, other)
    assert (await service.admin.post(f"/v1/queries/{one.query_id}/erase")).json()["left"] == []
    assert {text for _, text in holding(database_url, SAID, OTHER)} == {OTHER}


async def test_a_live_run_can_be_deleted_and_its_versions_are_not_given_again(
    service: Running, database_url: str
) -> None:
    await filled(service, 12)
    await publish(service, 3)
    (await service.admin.put(f"/v1/runs/{RUN}", json={"state": "closed"})).raise_for_status()
    assert (await service.admin.delete(f"/v1/runs/{RUN}")).status_code == 204
    assert holding(database_url, SAID, OTHER, EDIT, COMMENT) == set()
    await service.state.database.write(make_run)
    assert [row["version"] for row in await publish(service, 1)] == [4]


# --- the controls ----------------------------------------------------------------------------------------------------


async def test_without_the_purge_it_is_found(
    service: Running, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = await filled(service)
    monkeypatch.setattr(purge, "purge", lambda connection: [])
    await erase(app)
    rows = await everything(service)
    assert not any(trace in rows for trace in TRACES), "the rows hold nothing"
    assert {text for _, text in holding(database_url, *TRACES)} != set(), "the files do"


async def test_every_column_that_holds_texts_is_found_when_it_is_forgotten(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = await filled(sqlite_service, 6)
    monkeypatch.setattr(completion_texts, "_NOTHING", {"messages": "[]"})
    await erase(app)
    assert SAID in await everything(sqlite_service)


async def test_a_comment_that_is_forgotten_is_found(sqlite_service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = await filled(sqlite_service, 6)
    monkeypatch.setattr(live_erasure, "forget_comments_on", lambda connection, which: None)
    await erase(app)
    assert COMMENT in await everything(sqlite_service)


# --- who may ---------------------------------------------------------------------------------------------------------


async def test_a_key_erases_its_own_users_and_nobody_elses(service: Running) -> None:
    app, other = await filled(service, 6)
    before = await everything(service)
    for client, user in ((other, NAME), (app, "socrates"), (app, "nobody"), (service.admin, "nobody")):
        assert (await erase(client, user)).status_code == 404, user
    for scopes in (("experiment", "annotate"), ("read",)):
        assert (await erase(await service.client(*scopes))).status_code == 403
    elsewhere = await service.client("admin", runs=["elsewhere"])
    assert (await erase(elsewhere)).status_code == 404
    unchanged = await everything(service)
    assert all(SAID in text and OTHER in text for text in (before, unchanged))
    assert (await erase(app)).status_code == 200
    assert (await erase(app)).status_code == 404, "nothing is known of them any more"
    assert (await erase(service.admin, "socrates")).status_code == 200


async def test_a_user_of_two_apps_is_erased_for_each_by_its_key_and_for_both_by_an_admin(service: Running) -> None:
    (key, app), (other_key, other) = await chat_key(service, "one"), await chat_key(service, "other")
    await begin(
        service,
        *(Asked(n, k, asked="duel", user=NAME, said=f" of {k}") for k in (key, other_key) for n in (int(k[-6:], 16),)),
    )
    await service.state.database.write(lambda connection: know(connection, NAME))
    assert (await erase(app)).json()["completions"] == 1
    seen = await everything(service)
    assert f" of {key}" not in seen
    assert f" of {other_key}" in seen
    assert await hashes(service) == {user_hash(NAME)}, "the other app still has them"
    assert (await erase(service.admin)).json()["completions"] == 1
    assert user_hash(NAME) not in await everything(service)
    assert (await erase(other)).status_code == 404


async def hashes(service: Running) -> set[str]:
    def read(connection: Connection) -> set[str]:
        return set(connection.execute(select(live_users.c.user_hash)).scalars())

    return await service.state.database.read(read)


async def test_names_with_slashes_and_letters_of_any_kind_are_erased(service: Running) -> None:
    key, app = await chat_key(service)
    names = ["auth0|a/b", "Zoë / ann", "a/asks", "%2e", "日本"]
    await begin(service, *(Asked(n, key, user=name) for n, name in enumerate(names)))
    for name in names:
        path = "/v1/users/" + "".join(f"%{byte:02x}" for byte in name.encode())
        assert (await app.delete(path)).json()["completions"] == 1, name


# --- what becomes known of it ----------------------------------------------------------------------------------------


async def publish(service: Running, count: int) -> list[dict[str, Any]]:
    made = []
    for number in range(count):
        body = {"checksum": f"{number:032x}", "round": number, "labels": number, "path": f"/weights/{number}"}
        made.append((await service.admin.post(f"/v1/live/{RUN}/publications", json=body)).json())
    return made


async def test_the_answer_names_the_versions_that_came_after_something_could_be_learnt(service: Running) -> None:
    key, app = await chat_key(service)
    await begin(service, Asked(0, key, user="early", created_at=START - 10))
    await publish(service, 2)
    service.clock.jump(100)
    late = START + 100
    await add(
        service,
        Asked(1, key, user=NAME, asked="duel", created_at=late),
        Asked(2, key, user="held out", heldout=True, created_at=START - 10),
        Asked(3, key, user="not stored", stored=False, created_at=START - 10),
        Asked(4, key, user="failed", state="failed", created_at=START - 10),
    )
    service.clock.jump(1)
    more = [{"checksum": "ff", "round": 9, "labels": 9, "path": "/w"}]
    for body in more:
        await service.admin.post(f"/v1/live/{RUN}/publications", json=body)
    names = {"early": [1, 2, 3], NAME: [3], "held out": [], "not stored": [], "failed": []}
    assert {name: (await erase(app, name)).json()["versions"] for name in names} == names


async def test_the_agent_is_told_once_of_everything_that_was_erased(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion_texts, "MOST_AT_ONCE", 7)
    app, _ = await filled(service, 60)
    assert await told_erased(service) == ([], 0)
    await erase(app)
    first, after = await told_erased(service)
    assert len(first) == len(set(first)) == 60
    assert after > 5, "in several answers"
    await erase(service.admin, "socrates")
    second, _ = await told_erased(service, after)
    assert len(set(second)) == 60
    assert not set(first) & set(second)


async def told_erased(service: Running, after: int = 0) -> tuple[list[str], int]:
    ids: list[str] = []
    for _ in range(1000):
        page = (await service.admin.get(f"/v1/live/{RUN}/erased", params={"after": after})).json()
        ids += page["completions"]
        after = page["next_after"]
        if after == page["erasures"]:
            return ids, after
    raise AssertionError("there is no end")


async def test_who_is_not_to_be_asked_is_kept_as_a_hash_and_erased_with_the_rest(service: Running) -> None:
    key, app = await chat_key(service)
    _, other = await chat_key(service, "other")
    await begin(service, Asked(1, key, user=NAME))
    for asks in (False, False, True, False):
        answer = await app.put(f"/v1/users/{NAME}/asks", json={"asks": asks})
        assert answer.json() == {"asks": asks}
    assert (await other.put(f"/v1/users/{NAME}/asks", json={"asks": True})).status_code == 404
    assert (await other.put("/v1/users/newcomer/asks", json={"asks": False})).status_code == 200

    def asking(connection: Connection) -> dict[str, bool]:
        return {row.user_hash: row.asks for row in connection.execute(select(live_users))}

    assert await service.state.database.read(asking) == {user_hash(NAME): False, user_hash("newcomer"): False}
    await erase(app)
    after = await service.state.database.read(asking)
    assert user_hash(NAME) not in after
    assert sorted(after.values()) == [False, False]


# --- texts whose time has passed -------------------------------------------------------------------------------------


async def test_texts_of_requests_go_once_they_were_kept_for_long_enough(service: Running, database_url: str) -> None:
    key, app = await chat_key(service)
    old = Asked(1, key, asked="duel", said=f" {SAID}")
    young = Asked(2, key, asked="duel", said=f" {OTHER}", created_at=START + 5 * DAY)
    await begin(service, old, young, Asked(3, key, stored=False))
    await said(app, old, "choice", outcome="first")
    await said(app, old, "edit", text=EDIT)
    before = await figures_since(service)
    keep = update(tables.runs).values(retention_days=7.0)
    await service.state.database.write(lambda connection: connection.execute(keep).rowcount)
    from sea_agent.service.erasing import _erase_past  # as it does every hour

    service.clock.jump(7 * DAY)
    await _erase_past(service.state)
    assert {text for _, text in holding(database_url, SAID, OTHER, EDIT)} == {SAID, OTHER, EDIT}, "a moment early"
    service.clock.jump(1)
    await _erase_past(service.state)
    assert {text for _, text in holding(database_url, SAID, OTHER, EDIT)} == {OTHER}
    assert (await figures_since(service)) == before
    assert set((await told_erased(service))[0]) == {old.id, Asked(3, key).id}
    assert not await service.state.database.read(lambda connection: live_erasure.has_past(connection, START + 7 * DAY))


async def figures_since(service: Running) -> tuple[Any, ...]:
    summary = (await service.admin.get(f"/v1/live/{RUN}/summary", params={"since": "2026-01-01T00:00:00Z"})).json()
    return tuple(json.dumps(summary[name]) for name in ("requests", "asked", "outcomes", "users", "prompt_tokens"))


async def test_a_run_that_is_not_live_keeps_none(sqlite_service: Running) -> None:
    await sqlite_service.run(retention_days=1.0)
    service_has_past = await sqlite_service.state.database.read(
        lambda connection: live_erasure.has_past(connection, START + 99 * DAY)
    )
    assert not service_has_past


async def test_rows_of_every_live_table_are_in_the_purge(service: Running) -> None:
    tables = (completions, feedback, implicit_choices, publications, live_users)
    assert {table.name for table in tables} <= purge.metadata.tables.keys()
    key, _ = await chat_key(service)

    def fill(connection: Connection) -> None:
        make_run(connection)
        write(connection, [Asked(1, key, asked="duel")])
        connection.execute(
            insert(feedback),
            {"completion_id": Asked(1, key).id, "kind": "used", "value": "{}", "body_digest": "", "at": START},
        )

    await service.state.database.write(fill)
    assert await purge_files(service.state) == []
