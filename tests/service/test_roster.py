"""People: links that let them in, what is told of them, and how their work ends."""

import asyncio
import xml.etree.ElementTree as ElementTree
from typing import Any
from urllib.parse import quote

import pytest
from service.conftest import ORIGIN, Running, claim, free, label
from sqlalchemy import Connection

from sea_agent.service.store import roster
from sea_agent.service.store.keys import Key

pytestmark = pytest.mark.anyio


async def invite(service: Running, annotator: str = "ann", **body: Any) -> dict[str, Any]:
    """Make somebody a link; the answer."""
    made = await service.admin.post("/v1/people", json={"annotator": annotator, **body})
    assert made.status_code == 201, made.text
    return made.json()


async def people(service: Running) -> dict[str, dict[str, Any]]:
    rows = (await service.admin.get("/v1/people")).json()["people"]
    return {row["annotator"]: row for row in rows}


# --- links -----------------------------------------------------------------------------------------------------------


async def test_a_link_carries_a_key_for_annotating_behind_the_hash(sqlite_service: Running) -> None:
    made = await invite(sqlite_service, runs=["run"], expires_at="2027-02-01T00:00:00Z", run="run")
    place, _, key = made["link"].partition("#key=")
    assert (place, key) == (f"{ORIGIN}/sign-in?next=/label/run", made["key"])
    assert (made["scopes"], made["runs"], made["annotator"]) == (["annotate"], ["run"], "ann")
    assert made["expires_at"] == "2027-02-01T00:00:00.000Z"
    assert (await invite(sqlite_service))["link"].startswith(f"{ORIGIN}/sign-in#key=sea_")


@pytest.mark.parametrize("name", [".", ".."])
async def test_nobody_is_called_what_a_path_cannot_hold(sqlite_service: Running, name: str) -> None:
    """Nothing could be done about them: clients take such a name out of ``/v1/people/{annotator}/end``."""
    await sqlite_service.run()
    await sqlite_service.post(1)
    posts = [
        ("/v1/people", {"annotator": name}, "body.annotator"),
        ("/v1/keys", {"name": name, "scopes": ["annotate"]}, "body.name"),
        ("/v1/keys", {"name": "a", "annotator": name, "scopes": ["annotate"]}, "body.annotator"),
        (
            "/v1/runs/run/labels:batch",
            {"labels": [{"client_key": "k0", "outcome": "tie", "annotator": name}]},
            "body.labels.0.LabelByClientKeyIn.annotator",
        ),
    ]
    for path, body, where in posts:
        answer = await sqlite_service.admin.post(path, json=body, headers={"Idempotency-Key": "once"})
        assert answer.status_code == 422, path
        told = {error["where"]: error["what"] for error in answer.json()["errors"]}
        assert f"{name} stands for a folder in a path" in told[where]
        assert "choose another name" in told[where]
    assert (await people(sqlite_service)).keys() == {"admin"}
    for allowed in ("...", ".a", "..a", "a.", "a/.", "ä"):
        await invite(sqlite_service, allowed)
        path = f"/v1/people/{quote(allowed, safe='')}/end"
        assert (await sqlite_service.admin.post(path)).status_code == 204, allowed


async def test_a_link_leads_where_the_service_was_asked(sqlite_service: Running) -> None:
    for origin in ("https://labels.test", "http://10.0.0.7:8400"):
        made = await sqlite_service.admin.post(f"{origin}/v1/people", json={"annotator": "ann"})
        assert made.json()["link"].startswith(f"{origin}/sign-in#key=")


async def test_the_code_is_a_picture_that_a_page_can_show(sqlite_service: Running) -> None:
    made = await invite(sqlite_service)
    root = ElementTree.fromstring(made["qr"])
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert made["qr"] != (await invite(sqlite_service))["qr"], "each has its own link"


async def test_a_link_may_be_opened_again_until_it_is_ended(service: Running) -> None:
    secret = (await invite(service))["key"]
    for _ in range(2):
        browser = await service.client()
        done = await browser.post("/sign-in", data={"key": secret, "next": "/label"}, headers={"Origin": ORIGIN})
        assert (done.status_code, done.headers["location"]) == (303, "/label")
    assert (await service.admin.post("/v1/people/ann/end")).status_code == 204
    assert (await browser.get("/v1/runs")).status_code == 401, "the session"
    again = await browser.post("/sign-in", data={"key": secret, "next": "/label"}, headers={"Origin": ORIGIN})
    assert again.status_code == 401, "the key"


async def test_nobody_gets_the_name_of_somebody_who_was_erased(sqlite_service: Running) -> None:
    await invite(sqlite_service)
    pseudonym = (await sqlite_service.admin.post("/v1/people/ann/erase")).json()["pseudonym"]
    key = {"scopes": ["annotate"]}
    for path, body in (
        ("/v1/people", {"annotator": pseudonym}),
        ("/v1/keys", {"name": pseudonym, **key}),
        ("/v1/keys", {"name": "ann", "annotator": pseudonym, **key}),
        ("/v1/keys", {"name": pseudonym, "annotator": "ann", **key}),
    ):
        refused = await sqlite_service.admin.post(path, json=body)
        assert (refused.status_code, pseudonym in refused.json()["detail"]) == (409, True), body
    await invite(sqlite_service)  # somebody new, who happens to be called so


# --- the list --------------------------------------------------------------------------------------------------------


async def test_the_list_tells_who_works_how_much_and_where(service: Running) -> None:
    for run in ("one", "two"):
        await service.run(run)
        await service.post(2, run)
    ann = await service.annotator("ann")
    for run in ("two", "one"):
        given = (await label(ann, await claim(ann, run))).json()
    await ann.post(f"/v1/labels/{given['label_id']}/revisions", json={"outcome": "tie"})
    service.clock.jump(3000)
    await label(ann, await claim(ann, "one"))
    service.clock.jump(1000)
    await service.annotator("bob")
    imported = {"labels": [{"client_key": "k0", "outcome": "first", "annotator": "judge"}]}
    await service.admin.post("/v1/runs/two/labels:batch", json=imported, headers={"Idempotency-Key": "x"})
    found = await people(service)
    assert list(found) == ["admin", "ann", "bob", "judge"]
    ann_row, bob, judge = found["ann"], found["bob"], found["judge"]
    assert (ann_row["answers"], ann_row["answers_last_hour"], ann_row["runs"]) == (3, 1, ["one", "two"])
    assert ann_row["last_seen"] == "2027-01-15T08:50:00.000Z"
    assert [key["name"] for key in ann_row["keys"]] == ["ann"]
    assert (bob["active"], bob["answers"], bob["last_seen"], bob["runs"]) == (True, 0, None, [])
    assert (judge["active"], judge["keys"], judge["answers"]) == (False, [], 1)
    assert not any(row["erased"] for row in found.values())


async def test_signing_in_is_seen_and_an_ended_person_is_not_active(sqlite_service: Running) -> None:
    secret = (await invite(sqlite_service))["key"]
    sqlite_service.clock.jump(60)
    await sqlite_service.state.keyring.sign_in(secret)
    assert (await people(sqlite_service))["ann"]["last_seen"] == "2027-01-15T08:01:00.000Z"
    await sqlite_service.admin.post("/v1/people/ann/end")
    assert not (await people(sqlite_service))["ann"]["active"]


# --- the end of somebody's work --------------------------------------------------------------------------------------


async def test_ending_gives_back_what_somebody_holds_and_keeps_what_they_answered(service: Running) -> None:
    await service.run()
    await service.post(2)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await label(ann, await claim(ann))
    held = await claim(ann)
    assert await free(bob)
    assert (await service.admin.post("/v1/people/ann/end")).status_code == 204
    assert (await claim(bob))["query_id"] == held["query_id"]
    assert [entry["annotator"] for entry in await service.log()] == ["ann"]
    assert (await ann.get("/v1/runs")).status_code == 401
    assert (await service.admin.post("/v1/people/ann/end")).status_code == 204, "again is no error"


@pytest.mark.parametrize("act", ["end", "erase"])
async def test_what_was_handed_out_to_somebody_does_not_wait_for_them_when_they_are_gone(
    service: Running, act: str
) -> None:
    await service.run()
    alone, shared, cancelled = await service.post(3)  # what is cancelled may be opened again
    bob = await service.annotator("bob")
    await service.annotator("ann")
    for query, names in ((alone, ["ann"]), (shared, ["ann", "cem"]), (cancelled, ["ann"])):
        await service.admin.patch(f"/v1/queries/{query}", json={"assigned": names})
    await service.admin.post(f"/v1/queries/{cancelled}/cancel")
    waiting = asyncio.create_task(bob.post("/v1/runs/run/leases", json={"wait_s": 25}))
    while not service.state.database.signals._events:
        await asyncio.sleep(0.01)
    assert (await service.admin.post(f"/v1/people/ann/{act}")).is_success
    assert (await waiting).json()["query_id"] == alone
    assert await free(await service.annotator("dan")), "the other is cem's"
    listed = (await service.admin.get("/v1/runs/run/queries")).json()["queries"]
    named = {query["id"]: query["assigned"] for query in listed}
    assert (named[alone], named[shared], named[cancelled]) == ([], ["cem"], [])
    await service.admin.post(f"/v1/queries/{cancelled}/reopen")
    assert (await claim(bob))["query_id"] == alone, "which he still holds"
    assert (await claim(await service.annotator("eve")))["query_id"] == cancelled, "it would wait for ann forever"
    assert (await claim(await service.annotator("cem")))["query_id"] == shared


async def test_the_end_of_the_only_key_gives_back_what_was_handed_out(service: Running) -> None:
    await service.run()
    held, handed, shared = await service.post(3)
    made = await invite(service)
    ann, bob = await service._connect(made["key"]), await service.annotator("bob")
    for query, names in ((handed, ["ann"]), (shared, ["ann", "cem"])):
        await service.admin.patch(f"/v1/queries/{query}", json={"assigned": names})
    assert (await claim(ann))["query_id"] == held
    waiting = asyncio.create_task(bob.post("/v1/runs/run/leases", json={"wait_s": 25}))
    while not service.state.database.signals._events:
        await asyncio.sleep(0.01)
    assert (await service.admin.delete(f"/v1/keys/{made['id']}")).status_code == 204
    given = [(await waiting).json()["query_id"], (await claim(await service.annotator("dan")))["query_id"]]
    assert given == [held, handed]
    assert await free(await service.annotator("eve")), "the third is cem's"
    assert (await claim(await service.annotator("cem")))["query_id"] == shared


async def test_nothing_is_taken_with_a_key_while_it_ends(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came after the duels were given back would stay with somebody who is gone."""
    made, keyring = await invite(sqlite_service), sqlite_service.state.keyring
    end, held = roster.end_key, []

    def watched(connection: Connection, key: Key, now: float) -> list[str]:
        held.append(keyring.holds(key.id))
        return end(connection, key, now)

    monkeypatch.setattr(roster, "end_key", watched)
    assert keyring.holds(made["id"])
    await keyring.revoke(made["id"])
    assert (held, keyring.holds(made["id"])) == ([False], False)


async def test_who_has_another_key_keeps_what_it_reaches(service: Running) -> None:
    for run in ("run", "other"):
        await service.run(run)
        await service.post(2, run)
        for query in (await service.admin.get(f"/v1/runs/{run}/queries?limit=1")).json()["queries"]:
            await service.admin.patch(f"/v1/queries/{query['id']}", json={"assigned": ["ann"]})
    links = [await invite(service) for _ in range(2)]
    ann = await service._connect((await invite(service, runs=["run"]))["key"])
    bob = await service._connect(links[0]["key"])
    mine, others = await claim(ann), await claim(bob, "other")
    await service.client("read", annotator="ann")  # with which nothing can be answered
    await service.admin.delete(f"/v1/keys/{links[0]['id']}")
    assert (await claim(ann), await free(await service.annotator("cem"))) == (mine, True), "she has other links"
    await service.admin.delete(f"/v1/keys/{links[1]['id']}")
    assert (await claim(ann), await free(await service.annotator("dan"))) == (mine, True), "this link is for the run"
    eve, fay = await service.annotator("eve"), await service.annotator("fay")
    assert (await claim(eve, "other"))["query_id"] == others["query_id"]
    assert not await free(fay, "other"), "that was handed out to ann"


@pytest.mark.parametrize("act", ["end", "erase"])
async def test_who_waits_for_a_duel_when_their_keys_end_gets_none(service: Running, act: str) -> None:
    await service.run()
    ann = await service.annotator("ann")
    waiting = asyncio.create_task(ann.post("/v1/runs/run/leases", json={"wait_s": 25}))
    while not service.state.database.signals._events:
        await asyncio.sleep(0.01)
    assert (await service.admin.post(f"/v1/people/ann/{act}")).is_success
    await service.post(1)
    assert (await waiting).status_code == 401
    assert "ann" not in await people(service) or act == "end"


@pytest.mark.parametrize("act", ["end", "erase"])
async def test_nobody_unknown_and_no_last_admin_is_ended(sqlite_service: Running, act: str) -> None:
    assert (await sqlite_service.admin.post(f"/v1/people/nobody/{act}")).status_code == 404
    refused = await sqlite_service.admin.post(f"/v1/people/admin/{act}")
    assert refused.status_code == 409
    assert "the last admin key" in refused.json()["detail"]
    assert (await sqlite_service.admin.get("/v1/people")).status_code == 200
    await sqlite_service.client("admin", annotator="other")
    assert (await sqlite_service.admin.post(f"/v1/people/admin/{act}")).is_success
    assert (await sqlite_service.admin.get("/v1/people")).status_code == 401


async def test_a_name_may_hold_anything(sqlite_service: Running) -> None:
    for name in ("a/b", "Zoë Ünal", "x/end", "100 %", "?#"):
        await invite(sqlite_service, name)
        path = "".join(f"%{byte:02X}" for byte in name.encode())
        assert (await sqlite_service.admin.post(f"/v1/people/{path}/end")).status_code == 204
        assert not (await people(sqlite_service))[name]["active"]
