"""What a key of some runs reaches: nothing of another run, by any route."""

import re
from typing import Any

import httpx
import pytest
from service.conftest import Running, claim, label
from service.live_rows import Asked, begin
from service.test_access import SCOPES, is_problem, operations

from sea_agent.service.auth import Experiment

pytestmark = pytest.mark.anyio

# What a key of some runs is answered where a path names something of another run: that the key is not for it, or, where
# there are only things of one's own, that there is none.
NOT_FOR_IT, NONE_OF_YOURS = 403, 404
OF_ANOTHER_RUN = {
    "run": NOT_FOR_IT,
    "query_id": NOT_FOR_IT,
    "annotator": NOT_FOR_IT,  # people and keys are the same in every run
    "key_id": NOT_FOR_IT,
    "lease_id": NONE_OF_YOURS,
    "label_id": NONE_OF_YOURS,
    "completion": NONE_OF_YOURS,
    "user": NONE_OF_YOURS,
}
# What names nothing of a run: whether a key of some runs may use it.
OF_NO_RUN = {
    ("GET", "/healthz"): True,
    ("GET", "/readyz"): True,
    ("GET", "/metrics"): False,
    ("GET", "/v1/runs"): True,  # and sees its own
    ("GET", "/v1/keys"): False,
    ("POST", "/v1/keys"): False,
    ("GET", "/v1/people"): False,
    ("POST", "/v1/people"): False,
    ("GET", "/v1/models"): True,  # of the one live run, as is the next
    ("POST", "/v1/chat/completions"): True,
}
# Bodies that are right, by how the path ends: a wrong one might be refused before it is known whose duel it is for.
BODIES: dict[str, dict[str, Any]] = {
    "/label": {"outcome": "first"},
    "/revisions": {"outcome": "tie"},
    "/choice": {"outcome": "first"},
    "/thumbs": {"up": True},
    "/edit": {"text": "better"},
    "/used": {"used": True},
    "/asks": {"asks": False},
}


async def of_another_run(service: Running) -> tuple[httpx.AsyncClient, dict[str, str]]:
    """A client with every right in the run ``mine``, and what there is of another run, the client's own where it may
    be: their duels, answers and requests from when their key was for every run."""
    for run in ("mine", "other"):
        await service.run(run)
    answered, _ = await service.post(2, "other")
    everywhere = await service.client("annotate", annotator="ann")
    labelled = await claim(everywhere, "other")
    given = (await label(everywhere, labelled)).json()
    held = await claim(everywhere, "other")
    made = await service.admin.post("/v1/keys", json={"name": "ann", "scopes": list(SCOPES), "runs": ["mine"]})
    asked = Asked(1, made.json()["id"], asked="duel")
    await begin(service, asked)
    there = {"run": "other", "query_id": answered, "lease_id": held["lease_id"], "label_id": given["label_id"]}
    there |= {"key_id": made.json()["id"], "annotator": "ann", "completion": asked.id, "user": "u1", "version": "1"}
    return await service._connect(made.json()["key"]), there


async def unguarded(service: Running) -> list[tuple[str, str, int | None]]:
    """Operations whose answer to a key of some runs is not the one that is expected, with the status; None for one of
    which nothing is expected."""
    client, there = await of_another_run(service)
    found: list[tuple[str, str, int | None]] = []
    for method, path in sorted(operations(service)):
        named = [OF_ANOTHER_RUN[name] for name in re.findall(r"{(\w+)}", path) if name in OF_ANOTHER_RUN]
        if not named and (method, path) not in OF_NO_RUN:
            found.append((method, path, None))
            continue
        body = next((body for ending, body in BODIES.items() if path.endswith(ending)), {})
        sent = {} if method in ("GET", "DELETE") else {"json": body}
        status = (await client.request(method, path.format_map(there), **sent)).status_code
        right = status == named[0] if named else (status == 403) != OF_NO_RUN[method, path]
        if not right:
            found.append((method, path, status))
    return found


async def test_no_operation_lets_a_key_of_some_runs_reach_another(sqlite_service: Running) -> None:
    assert await unguarded(sqlite_service) == []
    kept = (await sqlite_service.admin.get("/v1/runs/other")).json()
    assert (kept["state"], kept["queries"], kept["labels"], kept["erased"]) == ("open", 2, 1, False)


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/queries/{query_id}/look", 200), ("/v1/leases/{lease_id}/look", 200), ("/v1/look", None)]
)
async def test_a_route_that_forgets_to_look_at_the_run_is_found(
    sqlite_service: Running, path: str, status: int | None
) -> None:
    """The negative control: routes that nothing is expected of, and whose duel may be of any run."""

    async def look(caller: Experiment) -> dict[str, bool]:
        return {"told": True}

    sqlite_service.app.add_api_route(path, look, methods=["POST"])
    assert await unguarded(sqlite_service) == [("POST", path, status)]


async def test_a_key_of_some_runs_reaches_no_other(sqlite_service: Running) -> None:
    for run in ("mine", "other"):
        await sqlite_service.run(run)
    (mine,), _ = await sqlite_service.post(1, "mine"), await sqlite_service.post(1, "other")
    client = await sqlite_service.client("experiment", "annotate", runs=["mine"])
    assert [run["id"] for run in (await client.get("/v1/runs")).json()["runs"]] == ["mine"]
    assert (await client.get(f"/v1/queries/{mine}")).status_code == 200
    # The same person, with a key for every run: the restricted key does not even see that lease or label.
    everywhere = await sqlite_service.client("annotate", annotator="experiment-annotate")
    lease = await claim(everywhere, "other")
    assert is_problem(await label(client, lease), 404)
    given = (await label(everywhere, lease)).json()
    assert is_problem(await client.post(f"/v1/labels/{given['label_id']}/revisions", json={"outcome": "tie"}), 404)


async def test_an_admin_of_some_runs_has_no_power_over_others_people_or_keys(service: Running) -> None:
    for run in ("mine", "other"):
        await service.run(run)
    (mine,), (other,) = await service.post(1, "mine"), await service.post(1, "other")
    await service.annotator("ann")
    client = await service.client("admin", runs=["mine"])
    for run in ("mine", "other"):
        await service.admin.put(f"/v1/runs/{run}", json={"state": "closed"})
    (key, *_) = (await service.admin.get("/v1/keys")).json()["keys"]
    for method, path in (
        ("POST", f"/v1/queries/{other}/erase"),
        ("POST", "/v1/runs/other/erase"),
        ("DELETE", "/v1/runs/other"),
        ("GET", "/v1/people"),
        ("POST", "/v1/people"),
        ("POST", "/v1/people/ann/end"),
        ("POST", "/v1/people/ann/erase"),
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
        ("DELETE", f"/v1/keys/{key['id']}"),
        ("GET", "/metrics"),
    ):
        body = {"annotator": "bob"} if path == "/v1/people" else {"name": "bob", "scopes": ["admin"]}
        answer = await client.request(method, path, json=body if method == "POST" else None)
        assert is_problem(answer, 403), (method, path)
    assert (await service.admin.get(f"/v1/queries/{other}")).json()["prompt"] == "prompt 0"
    for method, path in (
        ("POST", f"/v1/queries/{mine}/erase"),
        ("POST", "/v1/runs/mine/erase"),
        ("DELETE", "/v1/runs/mine"),
    ):
        assert (await client.request(method, path)).is_success, (method, path)


async def test_an_admin_of_some_runs_is_no_other_admin_to_leave_the_keys_to(sqlite_service: Running) -> None:
    await sqlite_service.client("admin", runs=["mine"])
    (last, _) = (await sqlite_service.admin.get("/v1/keys")).json()["keys"]
    assert is_problem(await sqlite_service.admin.delete(f"/v1/keys/{last['id']}"), 409)
    assert is_problem(await sqlite_service.admin.post("/v1/people/admin/end"), 409)
