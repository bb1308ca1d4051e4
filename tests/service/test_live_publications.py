"""Published weights: a version is never given twice, one is live at a time, and who may change that."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service.conftest import Running
from service.live_rows import RUN, begin, make_run
from sqlalchemy import Connection, create_engine, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import StaticPool

from sea_agent.service.store import publications as store
from sea_agent.service.store.faults import Conflict, Missing
from sea_agent.service.store.live_tables import publications
from sea_agent.service.store.schema import migrate

pytestmark = pytest.mark.anyio


async def offer(service: Running, number: int, run: str = RUN, **values: Any) -> Any:
    body = {"checksum": f"{number:032x}", "round": number, "labels": 10 * number, "path": f"/weights/{number}"} | values
    return await service.admin.post(f"/v1/live/{run}/publications", json=body)


async def decide(service: Running, version: int, **body: Any) -> int:
    return (await service.admin.patch(f"/v1/live/{RUN}/publications/{version}", json=body)).status_code


async def operate(service: Running, what: str, **body: Any) -> int:
    path = f"/v1/live/{RUN}/{what}"
    return (await service.admin.post(path, **({"json": body} if body else {}))).status_code


async def status(service: Running) -> dict[str, Any]:
    return (await service.admin.get(f"/v1/live/{RUN}")).json()


async def states(service: Running) -> dict[int, str]:
    rows = (await service.admin.get(f"/v1/live/{RUN}/publications")).json()["publications"]
    return {row["version"]: row["state"] for row in reversed(rows)}


async def offered(service: Running, count: int) -> None:
    await begin(service)
    for number in range(1, count + 1):
        assert (await offer(service, number)).status_code == 201


# --- versions --------------------------------------------------------------------------------------------------------


async def test_the_same_weights_of_the_same_round_have_one_version(service: Running) -> None:
    await begin(service)
    first = await offer(service, 1)
    again = await offer(service, 1, path="/moved")
    other_round = await offer(service, 1, round=7)
    assert [answer.status_code for answer in (first, again, other_round)] == [201, 200, 201]
    assert [answer.json()["version"] for answer in (first, again, other_round)] == [1, 1, 2]
    assert first.json() | {"created_at": None} == {
        "version": 1,
        "checksum": f"{1:032x}",
        "round": 1,
        "labels": 10,
        "path": "/weights/1",
        "state": "offered",
        "reason": "",
        "report": {},
        "created_at": None,
        "decided_at": None,
    }


async def test_a_version_is_not_given_again_when_the_newest_row_is_gone(service: Running) -> None:
    await offered(service, 3)
    newest = delete(publications).where(publications.c.version == 3)
    await service.state.database.write(lambda connection: connection.execute(newest).rowcount)
    assert (await offer(service, 9)).json()["version"] == 4


async def test_versions_of_two_runs_are_apart_and_neither_reaches_the_other(service: Running) -> None:
    await offered(service, 1)
    await service.state.database.write(lambda connection: make_run(connection, "other"))
    assert (await offer(service, 1, run="other")).json()["version"] == 2
    assert await decide(service, 2, state="live") == 404
    assert (await service.admin.post("/v1/live/other/promote", json={"version": 1})).status_code == 404
    assert await states(service) == {1: "offered"}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_run_that_is_not_live_has_none(sqlite_service: Running, method: str) -> None:
    await sqlite_service.run()
    for path in (
        "publications",
        "",
        "freeze",
        "rollback",
        "summary",
        "duels",
        "prompts",
        "erased",
        "thumbs",
        "implicit",
    ):
        url = f"/v1/live/run/{path}".rstrip("/")
        body = {"checksum": "ab", "round": 1, "labels": 1, "path": "/w"} if path == "publications" else None
        answer = await sqlite_service.admin.request(method, url, json=body if method == "POST" else None)
        assert answer.status_code in (404, 405), path


# --- what may follow -------------------------------------------------------------------------------------------------


async def test_one_goes_live_after_the_other(service: Running) -> None:
    await offered(service, 3)
    assert (await status(service))["live"] is None
    assert await decide(service, 1, state="live", reason="the first", report={"win_rate": 0.5}) == 200
    assert await decide(service, 2, state="canary") == 200
    assert (await status(service))["canary"] == 2
    assert await states(service) == {1: "live", 2: "canary", 3: "offered"}
    assert await decide(service, 2, state="live") == 200
    assert await states(service) == {1: "retired", 2: "live", 3: "offered"}
    assert await decide(service, 3, state="rejected", reason="too long", report={"kl": 20.0}) == 200
    rows = (await service.admin.get(f"/v1/live/{RUN}/publications")).json()["publications"]
    assert [(row["reason"], row["report"]) for row in rows] == [
        ("too long", {"kl": 20.0}),
        ("", {}),
        ("the first", {"win_rate": 0.5}),
    ]
    assert (await status(service)) == {
        "run": RUN,
        "live": 2,
        "canary": None,
        "frozen": False,
        "forced": None,
        "erasures": 0,
    }


async def test_what_was_said_may_be_said_again_and_nothing_else(service: Running) -> None:
    await offered(service, 2)
    for _ in range(2):
        assert await decide(service, 1, state="rejected") == 200
    for state in ("canary", "live", "withdrawn"):
        assert await decide(service, 1, state=state) == 409
    assert await decide(service, 2, state="withdrawn") == 409
    assert await decide(service, 2, state="retired") == 422
    assert await decide(service, 99, state="live") == 404
    assert await states(service) == {1: "rejected", 2: "offered"}


async def test_a_canary_that_another_takes_the_place_of_is_rejected(service: Running) -> None:
    await offered(service, 3)
    await decide(service, 1, state="canary")
    await decide(service, 2, state="canary")
    assert await states(service) == {1: "rejected", 2: "canary", 3: "offered"}
    await decide(service, 3, state="live")
    assert await states(service) == {1: "rejected", 2: "rejected", 3: "live"}


async def test_an_operator_who_lets_what_is_live_go_live_ends_the_canary(service: Running) -> None:
    await offered(service, 2)
    await decide(service, 1, state="live")
    await decide(service, 2, state="canary")
    assert await operate(service, "promote", version=1) == 200
    assert await states(service) == {1: "live", 2: "rejected"}
    assert ((await status(service))["live"], (await status(service))["forced"]) == (1, 1)


async def test_what_is_taken_back_gives_way_to_what_was_live_before(service: Running) -> None:
    await offered(service, 4)
    assert await operate(service, "rollback") == 409
    for version in (1, 2, 3):
        await decide(service, version, state="live")
    assert await decide(service, 3, state="withdrawn", reason="it loses its audits") == 200
    assert await states(service) == {1: "retired", 2: "live", 3: "withdrawn", 4: "offered"}
    await decide(service, 4, state="live")
    assert await operate(service, "rollback") == 200
    assert await states(service) == {1: "retired", 2: "live", 3: "withdrawn", 4: "withdrawn"}
    assert await operate(service, "rollback") == 200
    assert await operate(service, "rollback") == 409, "there is nothing before the first"
    assert await states(service) == {1: "live", 2: "withdrawn", 3: "withdrawn", 4: "withdrawn"}


async def test_while_frozen_only_operators_change_what_is_live(service: Running) -> None:
    await offered(service, 3)
    await decide(service, 1, state="live")
    for _ in range(2):
        assert await operate(service, "freeze") == 200
    assert (await status(service))["frozen"] is True
    assert [await decide(service, 2, state=state) for state in ("live", "canary", "rejected")] == [409, 409, 200]
    assert await operate(service, "promote", version=3) == 200
    assert (await status(service)) | {"erasures": 0} == await status(service)
    assert ((await status(service))["live"], (await status(service))["forced"]) == (3, 3)
    assert await operate(service, "rollback") == 200
    assert ((await status(service))["live"], (await status(service))["forced"]) == (1, None)
    assert (await offer(service, 4)).status_code == 201, "publishing goes on"
    assert await operate(service, "unfreeze") == 200
    assert await decide(service, 4, state="live") == 200


async def test_what_was_rejected_can_be_forced_and_is_taken_back_by_audits(service: Running) -> None:
    await offered(service, 2)
    await decide(service, 1, state="live")
    await decide(service, 2, state="rejected")
    for _ in range(2):
        assert await operate(service, "promote", version=2) == 200
    assert (await status(service))["forced"] == 2
    assert await decide(service, 2, state="withdrawn") == 200
    assert ((await status(service))["live"], (await status(service))["forced"]) == (1, None)
    assert await operate(service, "promote", version=2) == 200, "an operator may insist"
    assert await operate(service, "promote", version=99) == 404


async def test_what_is_gone_from_the_disk_goes_live_no_more(service: Running) -> None:
    await offered(service, 3)
    for version in (1, 2, 3):
        assert await decide(service, version, deleted=True) == 409, "it may still be needed"
        await decide(service, version, state="live")
    assert await decide(service, 3, deleted=True) == 409
    assert await decide(service, 2, deleted=True) == 200
    assert await operate(service, "promote", version=2) == 409
    assert await operate(service, "rollback") == 200
    assert (await status(service))["live"] == 1, "the one before is gone"
    assert await decide(service, 3, deleted=True) == 200
    assert await operate(service, "rollback") == 409


async def test_two_that_are_live_are_impossible(service: Running) -> None:
    await offered(service, 2)
    await decide(service, 1, state="live")
    both = publications.update().values(state="live")
    with pytest.raises(IntegrityError):
        await service.state.database.write(lambda connection: connection.execute(both).rowcount)


async def test_pages_of_publications_have_no_gap(service: Running) -> None:
    await offered(service, 7)
    seen: list[int] = []
    before = None
    while True:
        asked = {"limit": 3} | ({} if before is None else {"before": before})
        rows = (await service.admin.get(f"/v1/live/{RUN}/publications", params=asked)).json()["publications"]
        if not rows:
            break
        seen += [row["version"] for row in rows]
        before = seen[-1]
    assert seen == [7, 6, 5, 4, 3, 2, 1]


# --- any sequence ----------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.just(("offer", 0, "")),
        st.tuples(st.just("decide"), st.integers(1, 6), st.sampled_from(["canary", "live", "rejected", "withdrawn"])),
        st.tuples(st.sampled_from(["promote", "delete"]), st.integers(1, 6), st.just("")),
        st.tuples(st.sampled_from(["rollback", "freeze", "unfreeze"]), st.just(0), st.just("")),
    ),
    max_size=40,
)


class Model:
    """What publications should be, kept the simplest way: a list of states, and the order in which things were live."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.gone: set[int] = set()
        self.was_live: list[int] = []
        self.frozen = False

    def at(self, version: int) -> str | None:
        return self.states[version - 1] if 1 <= version <= len(self.states) else None

    def make(self, version: int, state: str) -> None:
        for other, held in enumerate(self.states, 1):
            if other != version and state in ("canary", "live") and held == "canary":
                self.states[other - 1] = "rejected"
            if other != version and state == "live" and held == "live":
                self.states[other - 1] = "retired"
                self.was_live.append(other)
        self.states[version - 1] = state
        if state == "live":
            self.was_live = [other for other in self.was_live if other != version]

    def back(self, version: int) -> bool:
        left = [other for other in self.was_live if other not in self.gone]
        if left:
            self.states[version - 1] = "withdrawn"
            self.make(left[-1], "live")
        return bool(left)

    def step(self, what: str, version: int, state: str) -> bool:
        """Whether it is allowed; if it is, it is done."""
        held = self.at(version)
        if what == "offer":
            self.states.append("offered")
        elif what in ("freeze", "unfreeze"):
            self.frozen = what == "freeze"
        elif what == "rollback":
            return "live" in self.states and self.back(self.states.index("live") + 1)
        elif held is None:
            return False
        elif what == "promote":
            if version in self.gone:
                return False
            self.make(version, "live")
        elif what == "delete":
            if held in ("offered", "canary", "live"):
                return False
            self.gone.add(version)
        elif held != state:
            allowed = {"offered": ["canary", "live", "rejected"], "canary": ["live", "rejected"], "live": ["withdrawn"]}
            if state not in allowed.get(held, []) or (self.frozen and state in ("canary", "live")):
                return False
            if state == "withdrawn":
                return self.back(version)
            self.make(version, state)
        return True


def take(connection: Connection, what: str, version: int, state: str, now: float) -> bool:
    """Whether the store allows a step, and does it."""
    try:
        if what == "offer":
            store.offer(connection, RUN, {"checksum": str(now), "round": 0, "labels": 0, "path": "/w"}, now)
        elif what in ("freeze", "unfreeze"):
            store.freeze(connection, RUN, what == "freeze")
        elif what == "rollback":
            store.rollback(connection, RUN, now)
        elif what == "promote":
            store.promote(connection, RUN, version, now)
        else:
            body = {"deleted": True} if what == "delete" else {"state": state}
            store.change(connection, RUN, version, body, now)
    except (Conflict, Missing):
        return False
    return True


def follow(steps: list[tuple[str, int, str]]) -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.connect() as connection:
        migrate(connection)
        make_run(connection)
        model = Model()
        for number, step in enumerate(steps):
            allowed = take(connection, *step, now=float(number))
            assert allowed == model.step(*step), step
            rows = connection.execute(select(publications).order_by(publications.c.version)).all()
            assert [row.state for row in rows] == model.states, step
            assert [row.version for row in rows] == list(range(1, len(rows) + 1))
            assert sum(row.state == "live" for row in rows) <= 1
    engine.dispose()


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_any_sequence_of_steps_leaves_what_the_model_says(steps: list[tuple[str, int, str]]) -> None:
    follow(steps)


def test_a_rollback_to_the_first_instead_of_the_last_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [("offer", 0, "")] * 3 + [("decide", version, "live") for version in (1, 2, 3)] + [("rollback", 0, "")]
    follow(steps)

    def oldest(connection: Connection, run: str, row: Any, reason: str, now: float) -> None:
        store._set(connection, run, row, "withdrawn", now)
        store._set(connection, run, store.get(connection, run, 1), "live", now)

    monkeypatch.setattr(store, "_fall_back", oldest)
    with pytest.raises(AssertionError):
        follow(steps)
