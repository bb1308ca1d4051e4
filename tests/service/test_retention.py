"""Runs keep texts for as long as they say: the service erases them by itself, when it starts and every hour."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from service.conftest import Clock, Running, claim, label, start
from sqlalchemy import Connection, select, update

from sea_agent.service.erasing import HOUR
from sea_agent.service.store import purge
from sea_agent.service.store.database import StoreUnavailable
from sea_agent.service.store.tables import queries, runs

pytestmark = pytest.mark.anyio

DAY = 86_400.0


class Hours:
    """The pauses of a service, each of which lasts until it is told to end."""

    def __init__(self) -> None:
        self.began: asyncio.Queue[float] = asyncio.Queue()
        self._over = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.began.put_nowait(seconds)
        await self._over.acquire()

    async def looked(self) -> None:
        """Until the service has looked and waits for the next time."""
        async with asyncio.timeout(60):
            assert await self.began.get() == HOUR

    async def passes(self) -> None:
        """An hour passes, and the service has looked again."""
        self._over.release()
        await self.looked()


@pytest.fixture
def hours() -> Hours:
    return Hours()


@pytest.fixture
async def service(database_url: str, hours: Hours) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        running = await start(stack, database_url, pause=hours)
        await hours.looked()
        yield running


async def keep(service: Running, days: float, run: str = "run") -> None:
    """Let a run keep its texts for so many days."""
    change = update(runs).where(runs.c.id == run).values(retention_days=days)
    await service.state.database.write(lambda connection: connection.execute(change).rowcount)


async def prompts(service: Running) -> dict[str, str]:
    """What is there of each duel's prompt, with its state."""

    def read(connection: Connection) -> dict[str, str]:
        rows = connection.execute(select(queries).order_by(queries.c.number)).all()
        return {f"{row.run} {row.client_key}": f"{row.state}: {row.prompt}" for row in rows}

    return await service.state.database.read(read)


async def test_texts_go_once_they_were_kept_for_long_enough(service: Running, hours: Hours) -> None:
    await service.run()
    await keep(service, 30)
    await service.post(2)
    ann = await service.annotator("ann")
    service.clock.jump(20 * DAY)  # a duel is over when it is answered, however long it has waited
    await label(ann, await claim(ann), comment="mine")
    service.clock.jump(30 * DAY - 1)
    await hours.passes()
    assert await prompts(service) == {"run k0": "answered: prompt 0", "run k1": "open: prompt 1"}
    service.clock.jump(2)
    assert (await prompts(service))["run k0"] == "answered: prompt 0", "not by itself, but every hour"
    await hours.passes()
    assert await prompts(service) == {"run k0": "answered: ", "run k1": "open: prompt 1"}
    (entry,) = await service.log()
    assert (entry["client_key"], entry["comment"]) == ("k0", "mine")
    assert not await service.state.database.read(purge.due)


async def test_a_run_that_says_nothing_keeps_its_texts(service: Running, hours: Hours) -> None:
    for run in ("run", "other"):
        await service.run(run)
        for query in await service.post(1, run):
            await service.admin.post(f"/v1/queries/{query}/cancel")
    await keep(service, 1, "other")
    service.clock.jump(1000 * DAY)
    await hours.passes()
    assert await prompts(service) == {"run k0": "cancelled: prompt 0", "other k0": "cancelled: "}


async def test_what_expired_is_over_even_if_nobody_asked_since(service: Running, hours: Hours) -> None:
    await service.run()
    await keep(service, 1)
    await service.post(1, expires_at="2027-01-18T08:00:00Z")  # in three days
    service.clock.jump(3 * DAY)
    await hours.passes()
    assert await prompts(service) == {"run k0": "open: prompt 0"}
    service.clock.jump(DAY + 1)
    await hours.passes()
    assert await prompts(service) == {"run k0": "expired: "}


async def end(service: Running, how: str, query: str) -> None:
    """Let a duel that is open end."""
    match how:
        case "cancelled":
            await service.admin.post(f"/v1/queries/{query}/cancel")
        case "skipped":
            ann = await service.annotator("ann")
            await ann.post(f"/v1/leases/{(await claim(ann))['lease_id']}/skip")
            await service.admin.post("/v1/runs/run/settle")
        case "expired":
            pass  # it has, when the service looks
        case "answered" | "enough":
            ann = await service.annotator("ann")
            await label(ann, await claim(ann))
            service.clock.jump(20 * DAY if how == "enough" else 0)
            await service.admin.patch(f"/v1/queries/{query}", json={"votes_needed": 1})


@pytest.mark.parametrize(
    ("how", "state"),
    [
        ("answered", "answered"),
        ("enough", "answered"),  # with the vote that it had
        ("skipped", "cancelled"),  # by everybody, and settled
        ("expired", "expired"),
        ("cancelled", "cancelled"),
    ],
)
async def test_the_days_count_from_when_a_duel_ended_however_it_did(
    service: Running, hours: Hours, how: str, state: str
) -> None:
    await service.run()
    await keep(service, 30)
    ends = {"expires_at": "2027-02-24T08:00:00Z"} if how == "expired" else {}  # in forty days
    (query,) = await service.post(1, votes_needed=2 if how == "enough" else 1, **ends)
    service.clock.jump(40 * DAY)
    await end(service, how, query)
    service.clock.jump(30 * DAY - 1)
    await hours.passes()
    assert (await prompts(service))["run k0"].endswith(": prompt 0")
    service.clock.jump(2)
    await hours.passes()
    assert await prompts(service) == {"run k0": f"{state}: "}


async def test_a_duel_that_is_opened_again_keeps_its_texts_until_it_ends_again(service: Running, hours: Hours) -> None:
    await service.run()
    await keep(service, 30)
    (query,) = await service.post(1)
    for days in (10, 50):
        await end(service, "cancelled", query)
        service.clock.jump(10 * DAY)
        assert (await service.admin.post(f"/v1/queries/{query}/reopen")).json()["state"] == "open"
        service.clock.jump(days * DAY)
        await hours.passes()
    ann = await service.annotator("ann")
    await label(ann, await claim(ann))
    await hours.passes()
    assert await prompts(service) == {"run k0": "answered: prompt 0"}
    for votes_needed in (2, 1):  # over since now
        service.clock.jump(25 * DAY)
        await service.admin.patch(f"/v1/queries/{query}", json={"votes_needed": votes_needed})
    await hours.passes()
    assert await prompts(service) == {"run k0": "answered: prompt 0"}


async def test_more_than_one_transaction_erases_goes_in_one_look(
    service: Running, hours: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sea_agent.service.store.erasure.MOST_AT_ONCE", 2)
    await service.run()
    await keep(service, 1)
    for query in await service.post(5):
        await service.admin.post(f"/v1/queries/{query}/cancel")
    service.clock.jump(2 * DAY)
    await hours.passes()
    assert set((await prompts(service)).values()) == {"cancelled: "}


async def test_it_is_done_when_the_service_starts(database_url: str, hours: Hours) -> None:
    """What has passed meanwhile, and a purge that a crash prevented."""
    clock = Clock()
    async with AsyncExitStack() as stack:
        before = await start(stack, database_url, clock)
        await before.run()
        await keep(before, 1)
        for query in await before.post(1):
            await before.admin.post(f"/v1/queries/{query}/cancel")
        await before.state.database.write(lambda connection: purge.demand(connection, 0.0))
    clock.jump(2 * DAY)
    async with AsyncExitStack() as stack:
        after = await start(stack, database_url, clock, pause=hours)
        await hours.looked()
        assert await prompts(after) == {"run k0": "cancelled: "}
        assert not await after.state.database.read(purge.due)


async def test_a_store_that_fails_is_asked_again_in_an_hour(
    service: Running, hours: Hours, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await service.run()
    await keep(service, 1)
    for query in await service.post(1):
        await service.admin.post(f"/v1/queries/{query}/cancel")
    service.clock.jump(2 * DAY)
    with monkeypatch.context() as broken:
        broken.setattr(service.state.database, "write", _unavailable)
        await hours.passes()
    assert "not erased yet: nothing works" in caplog.text
    assert await prompts(service) == {"run k0": "cancelled: prompt 0"}
    await hours.passes()
    assert await prompts(service) == {"run k0": "cancelled: "}


async def _unavailable(*_: object, **__: object) -> None:
    raise StoreUnavailable("nothing works")
