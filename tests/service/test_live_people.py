"""Users of live mode are no annotators: they are told of on the page of live mode, and nowhere in the office."""

from typing import Any

import pytest
from service.conftest import Running, claim, label
from service.live_rows import RUN, Asked, begin, chat_key, user_hash
from sqlalchemy import delete

from sea_agent.service.store.live_tables import live_runs

pytestmark = pytest.mark.anyio


async def answered(service: Running) -> str:
    """A live run with a choice and a duel that waits, and a run with an annotator; the hash of the live run's user."""
    key, app = await chat_key(service)
    one, other = (Asked(number, key, asked="duel", user="ann walker") for number in (1, 2))
    await begin(service, one, other)
    assert (await app.put(f"/v1/feedback/{one.id}/choice", json={"outcome": "first"})).status_code == 201
    await service.run()
    body = {"queries": [{"client_key": "k", "prompt": "p", "first": "a", "second": "b"}]}
    await service.admin.post("/v1/runs/run/queries:batch", json=body)
    ann = await service.annotator("ann")
    await label(ann, await claim(ann))
    return user_hash("ann walker")


async def office(service: Running) -> dict[str, Any]:
    """Who is listed: among the people, as annotators of each run, and how many of its duels nobody can answer."""
    people = (await service.admin.get("/v1/people")).json()["people"]
    found: dict[str, Any] = {"people": {row["annotator"]: row["runs"] for row in people if row["answers"]}}
    for run in (RUN, "run"):
        rows = (await service.admin.get(f"/v1/runs/{run}/annotators")).json()["annotators"]
        found[run] = [row["annotator"] for row in rows]
        found[f"{run} stuck"] = (await service.admin.get(f"/v1/runs/{run}/progress")).json()["stuck"]
    return found


async def test_users_are_not_among_the_people_and_their_duels_wait_for_no_annotator(service: Running) -> None:
    user = await answered(service)
    assert await office(service) == {
        "people": {"ann": ["run"]},
        RUN: [],
        f"{RUN} stuck": 0,
        "run": ["ann"],
        "run stuck": 0,
    }
    agreement = (await service.admin.get(f"/v1/runs/{RUN}/agreement")).json()
    assert agreement["votes"] == 1, "answers count as before"
    summary = (await service.admin.get(f"/v1/live/{RUN}/summary")).json()
    assert [share["user"] for share in summary["users"]["most"]] == [user]
    told = {run["id"]: run["live"] for run in (await service.admin.get("/v1/runs")).json()["runs"]}
    assert told == {RUN: True, "run": False}

    def end_live_mode(connection: Any) -> int:
        return connection.execute(delete(live_runs)).rowcount

    await service.state.database.write(end_live_mode)  # the negative control: of another run they would be found
    found = await office(service)
    assert found["people"] == {"ann": ["run"], user: [RUN]}
    assert (found[RUN], found[f"{RUN} stuck"]) == ([user], 1)


async def test_a_user_cannot_be_ended_or_erased_as_if_they_were_an_annotator(service: Running) -> None:
    user = await answered(service)
    before = await service.log(RUN)
    for what in ("end", "erase"):
        assert (await service.admin.post(f"/v1/people/{user}/{what}")).status_code == 404
    assert await service.log(RUN) == before
    assert (await service.admin.post("/v1/people/ann/erase")).status_code == 200
    assert (await service.admin.delete("/v1/users/ann walker")).status_code == 200, "as what they are"
