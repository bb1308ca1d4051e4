"""Who may do what, and what becomes of requests that are wrong."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from service.conftest import ORIGIN, Running, start, together

from sea_agent.service.settings import Settings
from sea_agent.service.store import runs

pytestmark = pytest.mark.anyio

SCOPES = ("admin", "experiment", "annotate", "read", "chat")
EVERYBODY = None  # no key needed

# Every operation, and who may use it beside admins.
ALLOWED: dict[tuple[str, str], set[str] | None] = {
    ("GET", "/healthz"): EVERYBODY,
    ("GET", "/readyz"): EVERYBODY,
    ("GET", "/metrics"): {"experiment", "read"},
    ("GET", "/v1/runs"): {"experiment", "annotate", "read"},
    ("GET", "/v1/runs/{run}"): {"experiment", "annotate", "read"},
    ("PUT", "/v1/runs/{run}"): {"experiment"},
    ("DELETE", "/v1/runs/{run}"): set(),
    ("GET", "/v1/runs/{run}/progress"): {"experiment", "annotate", "read"},
    ("POST", "/v1/runs/{run}/settle"): {"experiment"},
    ("POST", "/v1/runs/{run}/queries:batch"): {"experiment"},
    ("GET", "/v1/runs/{run}/queries"): {"experiment", "read"},
    ("POST", "/v1/runs/{run}/assignments"): {"experiment"},
    ("PUT", "/v1/runs/{run}/assignments"): {"experiment"},
    ("DELETE", "/v1/runs/{run}/assignments"): {"experiment"},
    ("POST", "/v1/runs/{run}/queries:import"): {"experiment"},
    ("GET", "/v1/queries/{query_id}"): {"experiment", "read"},
    ("PATCH", "/v1/queries/{query_id}"): {"experiment"},
    ("POST", "/v1/queries/{query_id}/cancel"): {"experiment"},
    ("POST", "/v1/queries/{query_id}/reopen"): {"experiment"},
    ("POST", "/v1/queries/{query_id}/take-back"): {"experiment"},
    ("POST", "/v1/runs/{run}/leases"): {"annotate"},
    ("PATCH", "/v1/leases/{lease_id}"): {"annotate"},
    ("DELETE", "/v1/leases/{lease_id}"): {"annotate"},
    ("POST", "/v1/leases/{lease_id}/skip"): {"annotate"},
    ("PUT", "/v1/leases/{lease_id}/label"): {"annotate"},
    ("POST", "/v1/labels/{label_id}/revisions"): {"annotate"},
    ("POST", "/v1/runs/{run}/labels:batch"): {"experiment"},
    ("GET", "/v1/runs/{run}/labels"): {"experiment", "read"},
    ("GET", "/v1/runs/{run}/events"): {"experiment", "read"},
    ("GET", "/v1/runs/{run}/agreement"): {"experiment", "read"},
    ("GET", "/v1/runs/{run}/annotators"): {"experiment", "read"},
    ("GET", "/v1/runs/{run}/export.jsonl"): {"experiment", "read"},
    ("GET", "/v1/runs/{run}/export.parquet"): {"experiment", "read"},
    ("GET", "/v1/runs/{run}/export.csv"): {"experiment", "read"},
    ("GET", "/v1/keys"): set(),
    ("POST", "/v1/keys"): set(),
    ("DELETE", "/v1/keys/{key_id}"): set(),
    ("GET", "/v1/people"): set(),
    ("POST", "/v1/people"): set(),
    ("POST", "/v1/people/{annotator}/end"): set(),
    ("POST", "/v1/people/{annotator}/erase"): set(),
    ("POST", "/v1/queries/{query_id}/erase"): set(),
    ("POST", "/v1/runs/{run}/erase"): set(),
    ("POST", "/v1/chat/completions"): {"chat"},
    ("GET", "/v1/models"): {"chat"},
    ("PUT", "/v1/feedback/{completion}/choice"): {"chat"},
    ("PUT", "/v1/feedback/{completion}/thumbs"): {"chat"},
    ("PUT", "/v1/feedback/{completion}/edit"): {"chat"},
    ("PUT", "/v1/feedback/{completion}/used"): {"chat"},
    ("PUT", "/v1/users/{user}/asks"): {"chat"},
    ("DELETE", "/v1/users/{user}"): {"chat"},
    ("GET", "/v1/live/{run}"): {"experiment", "read"},
    ("GET", "/v1/live/{run}/duels"): {"experiment"},
    ("GET", "/v1/live/{run}/prompts"): {"experiment"},
    ("GET", "/v1/live/{run}/erased"): {"experiment"},
    ("GET", "/v1/live/{run}/thumbs"): {"experiment", "read"},
    ("GET", "/v1/live/{run}/implicit"): {"experiment", "read"},
    ("GET", "/v1/live/{run}/publications"): {"experiment", "read"},
    ("POST", "/v1/live/{run}/publications"): {"experiment"},
    ("PATCH", "/v1/live/{run}/publications/{version}"): {"experiment"},
    ("GET", "/v1/live/{run}/summary"): {"experiment", "read"},
    ("POST", "/v1/live/{run}/freeze"): set(),
    ("POST", "/v1/live/{run}/unfreeze"): set(),
    ("POST", "/v1/live/{run}/rollback"): set(),
    ("POST", "/v1/live/{run}/promote"): set(),
}

# Nothing of these exists, and the body fits no route: a request that is let through changes nothing.
NOWHERE = {
    "run": "missing",
    "query_id": "query-0",
    "lease_id": "lease-0",
    "label_id": "label-0",
    "key_id": "key-0",
    "annotator": "nobody",
    "completion": "chatcmpl-0",
    "user": "nobody",
    "version": "1",
}
WRONG_BODY = {"surely": "unknown"}


def operations(service: Running) -> set[tuple[str, str]]:
    """Method and path of everything that OpenAPI describes."""
    return {(method.upper(), path) for path, item in service.app.openapi()["paths"].items() for method in item}


async def ask(client: httpx.AsyncClient, method: str, path: str) -> httpx.Response:
    body = {} if method in ("GET", "DELETE") else {"json": WRONG_BODY}
    return await client.request(method, path.format_map(NOWHERE), **body)


def is_problem(answer: httpx.Response, status: int) -> bool:
    """Whether an answer is a problem document of this status with every header that it should have."""
    body = answer.json()
    return (
        answer.status_code == body["status"] == status
        and answer.headers["content-type"] == "application/problem+json"
        and {"type", "title", "status", "detail"} <= body.keys()
        and "default-src 'none'" in answer.headers["content-security-policy"]
        and answer.headers["x-content-type-options"] == "nosniff"
    )


# --- scopes ----------------------------------------------------------------------------------------------------------


async def test_every_operation_has_an_expectation_and_every_expectation_an_operation(sqlite_service: Running) -> None:
    assert operations(sqlite_service) == set(ALLOWED)


async def test_each_scope_opens_its_operations_and_no_other(sqlite_service: Running) -> None:
    clients = {scope: await sqlite_service.client(scope) for scope in SCOPES}
    wrong = []
    for (method, path), allowed in ALLOWED.items():
        for scope, client in clients.items():
            answer = await ask(client, method, path)
            may = allowed is EVERYBODY or scope == "admin" or scope in allowed
            if (answer.status_code == 403) == may or answer.status_code in (401, 500):
                wrong.append((method, path, scope, answer.status_code))
    assert wrong == []


async def test_without_a_key_only_public_operations_answer(sqlite_service: Running) -> None:
    nobody = await sqlite_service.client()
    open_to_all = {key for key in ALLOWED if (await ask(nobody, *key)).status_code != 401}
    assert open_to_all == {key for key, allowed in ALLOWED.items() if allowed is EVERYBODY}
    assert (await nobody.get("/v1/openapi.json")).status_code == 200


async def test_only_an_admin_changes_after_how_many_days_texts_are_erased(service: Running) -> None:
    scopes = {scope: await service.client(scope) for scope in SCOPES}
    experiment = scopes["experiment"]

    async def put(client: httpx.AsyncClient, run: str, **fields: Any) -> httpx.Response:
        return await client.put(f"/v1/runs/{run}", json=fields)

    await service.run(retention_days=30.0)
    for scope, client in scopes.items():
        for days in (1e-6, 3650.0, None):
            answer = await put(client, "run", retention_days=days, name="changed")
            assert answer.status_code == (200 if scope == "admin" else 403), (scope, days)
            await service.run(retention_days=30.0)
    for days in ({}, {"retention_days": 30.0}):
        assert (await put(experiment, "run", name="again", **days)).json()["retention_days"] == 30.0
    refused = await put(experiment, "new", retention_days=1e-6)
    assert is_problem(refused, 403)
    assert refused.json()["detail"] == "retention_days of run new is null: only the scope admin may change it."
    assert is_problem(await service.admin.get("/v1/runs/new"), 404), "nothing of a refused request is stored"
    assert (await put(experiment, "new", retention_days=None)).json()["retention_days"] is None


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer ", "Basic YTpi", "wrong", "Bearer sea_é"])
async def test_a_wrong_key_is_refused(sqlite_service: Running, header: str) -> None:
    nobody = await sqlite_service.client()
    answer = await nobody.get("/v1/runs", headers={"Authorization": header.encode()})
    assert is_problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_key_ends_at_its_time(sqlite_service: Running) -> None:
    reader = await sqlite_service.client("read", expires_at="2027-01-15T08:01:00Z")  # in a minute
    assert (await reader.get("/v1/runs")).status_code == 200
    sqlite_service.clock.jump(60)
    assert is_problem(await reader.get("/v1/runs"), 401)


async def test_a_revoked_key_ends_at_once_and_for_good(service: Running) -> None:
    reader = await service.client("read")
    (key_id,) = [key["id"] for key in (await service.admin.get("/v1/keys")).json()["keys"] if key["name"] == "read"]
    for _ in range(2):
        assert (await service.admin.delete(f"/v1/keys/{key_id}")).status_code == 204
    assert is_problem(await reader.get("/v1/runs"), 401)
    assert is_problem(await service.admin.delete("/v1/keys/key-0"), 404)


async def test_the_last_admin_key_cannot_be_revoked(sqlite_service: Running) -> None:
    admin = sqlite_service.admin
    (first,) = (await admin.get("/v1/keys")).json()["keys"]
    assert is_problem(await admin.delete(f"/v1/keys/{first['id']}"), 409)
    other = await sqlite_service.client("admin")
    assert (await other.delete(f"/v1/keys/{first['id']}")).status_code == 204
    assert is_problem(await admin.get("/v1/keys"), 401)


async def test_a_key_is_shown_once_and_never_listed(sqlite_service: Running) -> None:
    made = (await sqlite_service.admin.post("/v1/keys", json={"name": "a", "scopes": ["annotate"]})).json()
    assert made["key"].startswith("sea_")
    listed = await sqlite_service.admin.get("/v1/keys")
    assert made["key"] not in listed.text
    assert all("key" not in key and "digest" not in key for key in listed.json()["keys"])


# --- page sessions ---------------------------------------------------------------------------------------------------


async def signed_in(service: Running) -> httpx.AsyncClient:
    """A browser with the cookie of a session whose key may annotate."""
    _, secret = await service.state.keyring.make("ann", frozenset({"annotate"}))
    browser = await service.client()
    browser.cookies.set(service.state.cookie, await service.state.keyring.sign_in(secret))
    return browser


async def test_a_session_may_change_things_only_from_a_page_of_the_service(sqlite_service: Running) -> None:
    await sqlite_service.run()
    await sqlite_service.post(1)
    browser = await signed_in(sqlite_service)
    assert (await browser.get("/v1/runs")).status_code == 200
    for headers in ({}, {"Origin": "https://elsewhere.test"}, {"Origin": "null"}, {"Origin": f"{ORIGIN}.evil.test"}):
        assert is_problem(await browser.post("/v1/runs/run/leases", json={}, headers=headers), 403)
    assert (await browser.post("/v1/runs/run/leases", json={}, headers={"Origin": ORIGIN})).status_code == 201
    assert is_problem(await browser.get("/v1/keys"), 403)


async def test_a_session_ends_by_signing_out_by_time_and_with_its_key(sqlite_service: Running) -> None:
    keyring, clock = sqlite_service.state.keyring, sqlite_service.clock
    key, secret = await keyring.make("ann", frozenset({"annotate"}))
    tokens = [await keyring.sign_in(secret) for _ in range(3)]
    assert all(keyring.find_session(token) for token in tokens)
    await keyring.sign_out(tokens[0])
    assert [keyring.find_session(token) is None for token in tokens] == [True, False, False]
    clock.jump(12 * 3600)
    assert keyring.find_session(tokens[1]) is None
    last = await keyring.sign_in(secret)
    await keyring.revoke(key.id)
    assert keyring.find_session(last) is None


async def test_two_services_of_one_host_do_not_sign_each_other_out(tmp_path: Path) -> None:
    """Browsers send a cookie to every port of a host."""
    names = [Settings(data=tmp_path / folder).cookie for folder in ("one", "other", "one/../one")]
    assert names[0] == names[2] != names[1]
    places = ("a.test/data", "b.test/data", "a.test/other", "a.test:9/data")
    assert len({Settings(database=f"postgresql://me:word@{place}").cookie for place in places}) == 4
    secrets = {Settings(database=f"postgresql://me:{word}@a.test/data").cookie for word in ("one", "other")}
    assert len(secrets) == 1, "the password is no part of it"


async def test_a_session_token_is_no_key_and_a_key_no_session(sqlite_service: Running) -> None:
    keyring = sqlite_service.state.keyring
    _, secret = await keyring.make("ann", frozenset({"annotate"}))
    token = await keyring.sign_in(secret)
    nobody = await sqlite_service.client()
    assert is_problem(await nobody.get("/v1/runs", headers={"Authorization": f"Bearer {token}"}), 401)
    nobody.cookies.set(sqlite_service.state.cookie, secret)
    assert is_problem(await nobody.get("/v1/runs"), 401)


# --- wrong requests --------------------------------------------------------------------------------------------------


async def test_a_body_that_is_too_large_is_refused_with_and_without_a_length(sqlite_service: Running) -> None:
    await sqlite_service.run()
    path, chunk = "/v1/runs/run/queries:batch", b" " * 1_000_000

    async def chunks() -> Any:
        for _ in range(10):
            yield chunk

    assert is_problem(await sqlite_service.admin.post(path, content=chunk * 10), 413)
    assert is_problem(await sqlite_service.admin.post(path, content=chunks()), 413)


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b"[" * 100_000, b'{"name": ' + b"9" * 5000 + b"}"])
async def test_broken_json_is_refused(sqlite_service: Running, body: bytes) -> None:
    json = {"Content-Type": "application/json"}
    answer = await sqlite_service.admin.put("/v1/runs/run", content=body, headers=json)
    assert is_problem(answer, 422 if body == b"" else 400)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", "1"),
        ("priority", 1.5),
        ("priority", True),
        ("priority", 10**30),
        ("votes_needed", 0),
        ("policy_version", -1),
        ("score", "0.5"),
        ("score", True),
        ("prompt", 1),
        ("prompt", None),
        ("prompt", "a\x00b"),
        ("prompt", "x" * 100_001),
        ("client_key", ""),
        ("gold", "tie"),
        ("expires_at", 1800000000),
        ("expires_at", "2027-01-15T08:00:00"),
        ("expires_at", "tomorrow"),
        ("unknown", 1),
    ],
)
async def test_a_field_of_a_wrong_type_is_named(sqlite_service: Running, field: str, value: object) -> None:
    await sqlite_service.run()
    good = {"client_key": "k", "prompt": "p", "first": "a", "second": "b"}
    answer = await sqlite_service.admin.post("/v1/runs/run/queries:batch", json={"queries": [{**good, field: value}]})
    assert is_problem(answer, 422)
    assert [error["where"] for error in answer.json()["errors"]] == [f"body.queries.0.{field}"]


async def test_a_whole_number_may_be_written_with_a_point(sqlite_service: Running) -> None:
    await sqlite_service.run(votes_needed=2.0)
    assert (await sqlite_service.admin.get("/v1/runs/run")).json()["votes_needed"] == 2


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"\\ud800"'])
async def test_what_json_cannot_say_is_refused(sqlite_service: Running, value: str) -> None:
    await sqlite_service.run()
    field = "prompt" if value.startswith('"') else "score"
    query = f'{{"client_key": "k", "first": "a", "second": "b", "prompt": "p", "{field}": {value}}}'
    answer = await sqlite_service.admin.post(
        "/v1/runs/run/queries:batch",
        content=f'{{"queries": [{query}]}}',
        headers={"Content-Type": "application/json"},
    )
    assert is_problem(answer, 422)


async def test_an_unknown_path_and_a_wrong_method_are_problems(sqlite_service: Running) -> None:
    assert is_problem(await sqlite_service.admin.get("/v1/nothing"), 404)
    assert is_problem(await sqlite_service.admin.get("/v1/runs/a b"), 422)
    wrong = await sqlite_service.admin.post("/v1/runs/run", json={})
    assert is_problem(wrong, 405)
    assert wrong.headers["allow"] == "DELETE, GET, PUT"


async def test_a_fault_of_the_service_is_a_problem_that_tells_nothing(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: object, states: object) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(runs, "everything", fail)
    transport = httpx.ASGITransport(sqlite_service.app, raise_app_exceptions=False)
    headers = sqlite_service.admin.headers
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as client:
        answer = await client.get("/v1/runs")
    assert is_problem(answer, 500)
    assert "42" not in answer.text


async def test_every_answer_carries_the_security_headers(sqlite_service: Running) -> None:
    await sqlite_service.run()
    for path in ("/healthz", "/v1/runs", "/v1/openapi.json", "/v1/nothing"):
        headers = (await sqlite_service.admin.get(path)).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


async def test_too_many_requests_of_one_key_are_refused_and_others_are_not(
    tmp_path: Any, sqlite_service: Running
) -> None:
    url = f"sqlite:///{tmp_path / 'limited.sqlite'}"
    limited = await start(sqlite_service.stack, url, requests_per_second=0.5, burst=5)
    other = await limited.client("read")  # the admin's first request
    answers = await together(*(limited.admin.get("/v1/runs") for _ in range(6)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 2
    assert all(is_problem(answer, 429) and answer.headers["retry-after"] == "2" for answer in refused)
    assert (await other.get("/v1/runs")).status_code == 200


@pytest.mark.parametrize("run", ["%2E", "%2E%2E", "a/b", "ä", "x" * 101])
async def test_a_run_has_no_id_that_a_path_cannot_hold(run: str, sqlite_service: Running) -> None:
    assert (await sqlite_service.admin.put(f"/v1/runs/{run}", json={})).status_code in (404, 422)
    assert (await sqlite_service.admin.put("/v1/runs/..a", json={})).status_code == 200
