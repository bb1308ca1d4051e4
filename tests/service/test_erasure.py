"""Erasing people and texts: what they said still counts, and nothing tells who it was or what was asked."""

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest
from service.conftest import Running, claim, free, label
from sqlalchemy import Connection, select

from sea_agent.service import erasing
from sea_agent.service.store import erasure
from sea_agent.service.store import labels as label_log
from sea_agent.service.store.tables import labels, metadata, queries

pytestmark = pytest.mark.anyio

KEPT = ("seq", "label_id", "query_id", "client_key", "outcome", "kind", "late", "revises", "strength", "at")


async def erase(service: Running, path: str) -> dict[str, Any]:
    done = await service.admin.post(f"/v1/{path}/erase")
    assert done.status_code == 200, done.text
    return done.json()


async def figures(service: Running) -> Any:
    """Everything that is computed from the labels of the run."""
    run = {"agreement", "annotators", "progress", ""}
    found = {part: (await service.admin.get(f"/v1/runs/run/{part}".rstrip("/"))).json() for part in run}
    # Who can still answer is no figure of the labels, nor is what changes with a name.
    for ability in ("annotators", "people", "stuck", "quality_version"):
        del found["progress"][ability]
    for row in found["annotators"]["annotators"]:
        row["annotator"] = "(ann)" if row["annotator"].startswith(("ann", "erased-")) else row["annotator"]
    found["annotators"]["annotators"].sort(key=lambda row: row["annotator"])
    return found


async def everything(service: Running) -> str:
    """Every value of every table."""

    def dump(connection: Connection) -> str:
        return json.dumps(
            [list(map(str, row)) for table in metadata.tables.values() for row in connection.execute(select(table))]
        )

    return await service.state.database.read(dump)


async def worked(service: Running) -> dict[str, httpx.AsyncClient]:
    """A run that ann and bob have answered in every way, with comments, and in which ann holds a duel."""
    await service.run(votes_needed=2)
    await service.post(4)
    people = {name: await service.client("annotate", annotator=name) for name in ("ann", "bob")}
    for name, client in people.items():
        for outcome in ("first", "second", "tie"):
            lease = await claim(client)
            given = await label(client, lease, outcome, comment=f"{name} thinks {outcome}", strength=2, elapsed_ms=900)
    await people["bob"].post(f"/v1/labels/{given.json()['label_id']}/revisions", json={"outcome": "first"})
    await claim(people["ann"])
    return people


# --- people ----------------------------------------------------------------------------------------------------------


async def test_a_pseudonym_takes_the_place_of_a_name_everywhere(service: Running) -> None:
    people = await worked(service)
    made = await service.admin.post("/v1/keys", json={"name": "laptop of a.", "annotator": "ann", "scopes": ["admin"]})
    laptop = await service._connect(made.json()["key"])
    imported = {"labels": [{"client_key": "k3", "outcome": "first", "annotator": "ann"}]}
    await laptop.post("/v1/runs/run/labels:batch", json=imported, headers={"Idempotency-Key": "ann's"})
    bobs = (await service.log())[3]
    await laptop.post(f"/v1/labels/{bobs['label_id']}/revisions", json={"outcome": "tie", "comment": "by ann"})
    before, log = await figures(service), await service.log()
    done = await erase(service, "people/ann")
    assert (done["labels"], done["left"]) == (4, [])
    stored = await everything(service)
    assert [text for text in ('"ann"', "laptop", "ann thinks", "by ann", "ann's") if text in stored] == []
    assert done["pseudonym"] in stored
    after, entries = await figures(service), await service.log()
    assert after == before
    assert [[entry[name] for name in KEPT] for entry in entries] == [[entry[name] for name in KEPT] for entry in log]
    who = {entry["annotator"] for entry in log} - {"ann"} | {done["pseudonym"]}
    assert {entry["annotator"] for entry in entries} == who
    comments = [entry["comment"] for entry in entries if entry["comment"] is not None]
    assert comments == ["bob thinks first", "bob thinks second", "bob thinks tie"]
    for client in (people["ann"], laptop):
        assert (await client.get("/v1/runs")).status_code == 401
    names = [key["name"] for key in (await service.admin.get("/v1/keys")).json()["keys"]]
    assert sorted(names) == ["admin", "bob", done["pseudonym"], done["pseudonym"]]


async def entered(service: Running) -> list[tuple[str, str, str | None]]:
    """Who answered, by which key, and their comments, in the order of the log."""
    log = select(labels.c.annotator, labels.c.entered_by, labels.c.comment).order_by(labels.c.seq)
    return await service.state.database.read(lambda connection: [tuple(row) for row in connection.execute(log)])


async def test_what_others_entered_with_a_key_that_is_called_the_same_stays(service: Running) -> None:
    await service.run(votes_needed=2)
    await service.post(1)
    for annotator in ("ann", "bob"):
        body = {"name": "laptop", "annotator": annotator, "scopes": ["annotate"]}
        client = await service._connect((await service.admin.post("/v1/keys", json=body)).json()["key"])
        await label(client, await claim(client), comment=f"{annotator} thinks so")
    pseudonym = (await erase(service, "people/ann"))["pseudonym"]
    assert await entered(service) == [(pseudonym, pseudonym, None), ("bob", "laptop", "bob thinks so")]
    listed = {key["annotator"]: key["name"] for key in (await service.admin.get("/v1/keys")).json()["keys"]}
    assert listed == {"admin": "admin", pseudonym: pseudonym, "bob": "laptop"}


async def test_a_key_of_somebody_else_that_bears_the_name_of_the_erased_bears_it_no_more(service: Running) -> None:
    await service.run()
    await service.post(2)
    ann = await service.annotator("ann")
    body = {"name": "ann", "annotator": "bench", "scopes": ["annotate"]}
    bench = await service._connect((await service.admin.post("/v1/keys", json=body)).json()["key"])
    for client in (ann, bench):
        await label(client, await claim(client), comment="so")
    pseudonym = (await erase(service, "people/ann"))["pseudonym"]
    assert '"ann"' not in await everything(service)
    assert await entered(service) == [(pseudonym, pseudonym, None), ("bench", pseudonym, "so")]
    assert {key.name for key in service.state.keyring.keys} == {"admin", pseudonym}
    assert (await bench.get("/v1/runs")).status_code == 200, "it is not theirs"
    await erase(service, f"people/{pseudonym}")
    assert [comment for *_, comment in await entered(service)] == [None, "so"], "again changes nothing"


async def test_the_keys_in_memory_are_those_that_are_stored(service: Running) -> None:
    await worked(service)
    _, secret = await service.state.keyring.make("ann", frozenset({"annotate"}))
    await service.state.keyring.sign_in(secret)
    await erase(service, "people/ann")
    held = service.state.keyring._by_id
    loaded = await service.state.database.read(erasure.keyring.load)
    assert held == {key.id: key for key in loaded}
    assert "ann" not in {key.annotator for key in held.values()}


async def test_what_comes_in_while_somebody_is_erased_leaves_no_name(service: Running) -> None:
    """Sessions, keys and leases that were asked for at the same moment: before, and renamed, or refused."""
    await service.run(votes_needed=9)
    await service.post(9)
    ann = await service.annotator("ann")
    made = (await service.admin.post("/v1/people", json={"annotator": "ann"})).json()["key"]
    form = {"key": made, "next": "/label"}
    browser = await service.client()

    async def enter() -> httpx.Response:
        return await browser.post("/sign-in", data=form, headers={"Origin": "http://service.test"})

    asking = [call() for _ in range(5) for call in (enter, lambda: ann.post("/v1/runs/run/leases", json={}))]
    erasing_now = service.admin.post("/v1/people/ann/erase")
    results = await asyncio.gather(*asking[:5], erasing_now, *asking[5:])
    assert results[5].status_code == 200
    assert {answer.status_code for answer in results} <= {200, 201, 303, 401}
    assert '"ann"' not in await everything(service)
    assert "ann" not in {key.annotator for key in service.state.keyring._by_id.values()}


async def test_without_the_bar_a_name_comes_back(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: who is let in while the erasure is written leaves their name behind it."""
    await service.run()
    await service.post(1)
    ann = await service.annotator("ann")
    real, loop, late = erasure.erase_person, asyncio.get_running_loop(), []

    def slow(connection: Connection, annotator: str, now: float) -> Any:
        asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
        return real(connection, annotator, now)

    async def begin() -> None:
        late.append(asyncio.create_task(ann.post("/v1/runs/run/leases", json={})))
        while service.state.database.queued < 1 and not late[-1].done():
            await asyncio.sleep(0.001)

    monkeypatch.setattr(erasing.erasure, "erase_person", slow)
    await erase(service, "people/ann")
    assert (await late[0]).status_code == 401
    assert '"ann"' not in await everything(service)

    ann = await service.annotator("bob")
    late.clear()
    monkeypatch.setattr(service.state.keyring, "_barred", _Nobody())
    await erase(service, "people/bob")
    assert (await late[0]).status_code == 201
    assert '"bob"' in await everything(service)


class _Nobody(Counter[str]):
    def __iadd__(self, _: object) -> "_Nobody":
        return self


async def test_nobody_is_let_in_until_the_last_of_two_who_end_somebody_is_done(sqlite_service: Running) -> None:
    ann = await sqlite_service.annotator("ann")
    keyring = sqlite_service.state.keyring
    with keyring.barred("ann"):
        with keyring.barred("ann"):
            pass
        assert (await ann.get("/v1/runs")).status_code == 401
    assert (await ann.get("/v1/runs")).status_code == 200


async def test_a_guessed_comment_is_not_confirmed(service: Running) -> None:
    """The digest that tells a replay from another answer is that of the answer without its comment."""
    await worked(service)
    body = {"outcome": "first", "strength": 2, "comment": "ann thinks first", "elapsed_ms": 900}
    (shown,) = [entry for entry in await service.log() if entry["comment"] == "ann thinks first"]
    pseudonym = (await erase(service, "people/ann"))["pseudonym"]

    def digests(connection: Connection) -> set[str]:
        theirs = select(labels.c.body_digest).where(labels.c.annotator == pseudonym)
        return set(connection.execute(theirs).scalars())

    kept = await service.state.database.read(digests)
    assert not {label_log.digest_of({**body, "outcome": side}) for side in ("first", "second")} & kept
    # Whoever may correct others finds an answer that can be replayed and corrected as any other.
    plain = {**body, "outcome": (await own_view(service, shown["label_id"])), "comment": None}
    revised = await service.admin.post(f"/v1/labels/{shown['label_id']}/revisions", json=plain)
    assert revised.status_code == 200, "it says what holds"
    guess = await service.admin.post(
        f"/v1/labels/{shown['label_id']}/revisions", json={**plain, "comment": body["comment"]}
    )
    assert guess.status_code == 201, "it says something new"


async def own_view(service: Running, label_id: str) -> str:
    """The outcome of a label in the order in which its duel was shown."""

    def read(connection: Connection) -> str:
        row = connection.execute(select(labels).where(labels.c.id == label_id)).one()
        return label_log._own_order(row.outcome, row.swapped)

    return await service.state.database.read(read)


async def test_a_batch_that_named_somebody_is_not_confirmed_when_it_is_sent_again(service: Running) -> None:
    await service.run()
    await service.post(2)
    judge = await service.client("experiment")

    async def send(key: str, who: str, duel: str = "k0") -> int:
        body = {"labels": [{"client_key": duel, "outcome": "first", "annotator": who}]}
        return (await judge.post("/v1/runs/run/labels:batch", json=body, headers={"Idempotency-Key": key})).status_code

    assert [await send("one", "ann"), await send("two", "bob", "k1"), await send("one", "ann")] == [200] * 3
    await erase(service, "people/ann")
    assert await send("one", "ann") == 409
    assert await send("two", "bob", "k1") == 200
    assert len(await service.log()) == 2


async def test_erasing_a_pseudonym_again_changes_nothing(service: Running) -> None:
    await worked(service)
    done = await erase(service, "people/ann")
    assert await erase(service, f"people/{done['pseudonym']}") == done
    assert (await service.admin.post("/v1/people/ann/erase")).status_code == 404
    rows = (await service.admin.get("/v1/people")).json()["people"]
    assert {row["annotator"]: row["erased"] for row in rows}[done["pseudonym"]]


# --- texts -----------------------------------------------------------------------------------------------------------


async def test_the_texts_of_a_duel_go_and_its_votes_stay(service: Running) -> None:
    await worked(service)
    before, log = await figures(service), await service.log()
    query = log[0]["query_id"]
    shown = (await service.admin.get(f"/v1/queries/{query}")).json()
    assert await erase(service, f"queries/{query}") == {"duels": 1, "left": []}
    assert await erase(service, f"queries/{query}") == {"duels": 0, "left": []}, "again is no error"
    gone = (await service.admin.get(f"/v1/queries/{query}")).json()
    changed = {"prompt": "", "first": "", "second": "", "erased_at": "2027-01-15T08:00:00.000Z"}
    assert gone == {**shown, **changed}
    assert await figures(service) == before
    assert await service.log() == log
    exported = (await service.admin.get("/v1/runs/run/export.jsonl?ties=keep")).text.splitlines()
    assert query not in {json.loads(line)["query_id"] for line in exported}, "there is nothing to learn from it"
    assert len(exported) == 2


async def test_an_open_duel_is_cancelled_before_it_is_erased(service: Running) -> None:
    await service.run(votes_needed=2)
    (first, second) = await service.post(2)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    lease = await claim(ann)
    assert lease["query_id"] == first
    await erase(service, f"queries/{first}")
    assert (await service.admin.get(f"/v1/queries/{first}")).json()["state"] == "cancelled"
    assert (await claim(ann))["query_id"] == (await claim(bob))["query_id"] == second
    late = (await label(ann, lease)).json()
    assert late["late"], "an answer to what was on the screen is kept"


async def test_the_texts_of_a_run_go_and_its_instructions(service: Running) -> None:
    await worked(service)
    await service.run(instructions="Be kind.")
    await service.run("other", instructions="Be quick.")
    await service.post(1, "other")
    log = await service.log()
    before = await figures(service)
    assert await erase(service, "runs/run") == {"duels": 4, "left": []}
    run = (await service.admin.get("/v1/runs/run")).json()
    assert (run["instructions"], run["labels"], run["queries"]) == ("", len(log), 4)
    after = await figures(service)
    assert (after["agreement"], after["annotators"]) == (before["agreement"], before["annotators"])
    assert after["progress"] == {**before["progress"], "open": 0, "cancelled": 1}
    assert await service.log() == log
    stored = await everything(service)
    assert "Be kind." not in stored
    assert "Be quick." in stored
    assert stored.count("prompt 0") == 1, "the other run's"
    bob = await service.annotator("bob")
    assert await free(bob)


@pytest.mark.parametrize("what", ["runs/run", "people/ann"])
async def test_answers_are_stored_while_much_is_erased(
    service: Running, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """No transaction erases more than two texts or comments, and others come between them."""
    monkeypatch.setattr(erasure, "MOST_AT_ONCE", 2)
    await service.run()
    await service.run("other")
    await service.post(5)
    await service.post(9, "other")
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    for _ in range(5):
        await label(ann, await claim(ann), comment="so")
    database, left = service.state.database, []
    write, held = database.write, await claim(bob, "other")

    def kept(connection: Connection) -> int:
        texts = select(queries.c.id).where(queries.c.run == "run", queries.c.prompt != "")
        comments = select(labels.c.id).where(labels.c.comment.is_not(None))
        return len(connection.execute(texts if what == "runs/run" else comments).all())

    async def watched(*arguments: Any, **named: Any) -> Any:
        done = await write(*arguments, **named)
        left.append(await database.read(kept))
        if len(left) == 1:
            monkeypatch.setattr(database, "write", write)
            assert (await label(bob, held)).status_code == 201
            monkeypatch.setattr(database, "write", watched)
        return done

    monkeypatch.setattr(database, "write", watched)
    erased = await erase(service, what)
    assert left[:3] == [3, 1, 0], left
    assert erased.get("duels", erased.get("labels")) == 5


async def test_an_erased_duel_is_not_asked_again_as_a_repeat(service: Running) -> None:
    await service.run(repeat_share=1.0)
    ids = await service.post(22)
    ann = await service.annotator("ann")
    for _ in range(20):
        await label(ann, await claim(ann))
    await erase(service, f"queries/{ids[0]}")
    lease = await claim(ann)
    assert lease["query_id"] == ids[20], "the only one that could be repeated has no texts"


@pytest.mark.parametrize("end", ["released", "expired"])
async def test_a_repeat_that_was_begun_is_not_gone_on_with_when_its_texts_are_gone(service: Running, end: str) -> None:
    await service.run(repeat_share=1.0)
    ids = await service.post(22)
    ann = await service.annotator("ann")
    for _ in range(20):
        await label(ann, await claim(ann))
    repeat = await claim(ann)
    assert repeat["query_id"] == ids[0]
    if end == "released":
        await ann.delete(f"/v1/leases/{repeat['lease_id']}")
    else:
        service.clock.jump(7200)
    await erase(service, f"queries/{ids[0]}")
    lease = await claim(ann)
    assert (lease["query_id"], lease["prompt"]) == (ids[1], "prompt 1"), "the next that can be repeated"


async def test_an_erased_duel_is_not_opened_by_more_votes(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    ann = await service.annotator("ann")
    await label(ann, await claim(ann))
    await erase(service, f"queries/{query}")
    refused = await service.admin.patch(f"/v1/queries/{query}", json={"votes_needed": 2, "assigned": ["bob"]})
    assert (refused.status_code, "erased" in refused.json()["detail"]) == (409, True)
    changed = await service.admin.patch(f"/v1/queries/{query}", json={"votes_needed": 1, "priority": 3})
    assert [changed.json()[name] for name in ("state", "votes_needed", "assigned")] == ["answered", 1, []]
    assert await free(await service.annotator("bob"))


async def test_a_run_that_posts_an_erased_duel_again_goes_on(service: Running) -> None:
    """And learns nothing of the texts that were there."""
    await service.run()
    (query,) = await service.post(1)
    await erase(service, f"queries/{query}")
    assert await service.post(1) == [query]
    other = {"client_key": "k0", "prompt": "another", "first": "a", "second": "b"}
    done = await service.admin.post("/v1/runs/run/queries:batch", json={"queries": [other]})
    assert done.json()["queries"] == [{"id": query, "client_key": "k0", "created": False, "votes_needed": 1}]
    assert (await service.admin.get(f"/v1/queries/{query}")).json()["prompt"] == ""


async def test_what_is_unknown_is_not_erased(sqlite_service: Running) -> None:
    for path in ("queries/query-0", "runs/missing", "people/nobody"):
        assert (await sqlite_service.admin.post(f"/v1/{path}/erase")).status_code == 404
