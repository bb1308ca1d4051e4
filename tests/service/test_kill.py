"""Killed again and again while many people answer and duels are imported and handed out, the service loses nothing that
it acknowledged and doubles nothing."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import httpx
import pytest
from service.conftest import seqs
from service.processes import ALTERED, GIVEN_KEY, SERVE, Process

pytestmark = [pytest.mark.anyio, pytest.mark.dear]

PEOPLE = 20
READY_SECONDS = 5.0


class Crowd:
    """People who answer in a closed loop, and send an answer again until it is acknowledged."""

    def __init__(self, url: str, keys: list[str]) -> None:
        self.acknowledged: list[str] = []
        self._url, self._keys = url, keys
        self._over = asyncio.Event()

    async def answer(self) -> None:
        """Everybody works until ``leave``."""
        await asyncio.gather(*(self._work(key) for key in self._keys))

    def leave(self) -> None:
        self._over.set()

    async def _work(self, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=self._url, headers=headers, timeout=30) as client:
            while not self._over.is_set():
                lease = await self._insist(client, "POST", "/v1/runs/run/leases", {})
                if lease is not None:
                    label = await self._insist(
                        client, "PUT", f"/v1/leases/{lease['lease_id']}/label", {"outcome": "tie"}
                    )
                    if label is not None:
                        self.acknowledged.append(label["label_id"])

    async def _insist(self, client: httpx.AsyncClient, method: str, path: str, body: Any) -> dict[str, Any] | None:
        while not self._over.is_set():
            try:
                answer = await client.request(method, path, json=body)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            return answer.json() if answer.status_code in (200, 201) else None
        return None


class Operator(Crowd):
    """Somebody who imports duels, hands them out and takes them back meanwhile, as often as the service lets them."""

    def __init__(self, url: str) -> None:
        super().__init__(url, [GIVEN_KEY])
        self.imported: list[str] = []
        self.handed_out = 0

    async def _work(self, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=self._url, headers=headers, timeout=30) as client:
            for number in count():
                if self._over.is_set():
                    return
                names = [f"file {number} row {row}" for row in range(5)]
                rows = [{"id": name, "prompt": name, "chosen": "a", "rejected": "b"} for name in names]
                if await self._insist(client, "POST", "/v1/runs/run/queries:import", rows) is not None:
                    self.imported += names
                body = {"annotators": ["a0", "a1"], "count": 4, "each": 1}
                if await self._insist(client, "POST", "/v1/runs/run/assignments", body) is not None:
                    self.handed_out += 1
                await self._insist(client, "DELETE", "/v1/runs/run/assignments", None)


async def survive(
    serve: Callable[..., Process], cycles: int, labels: int, program: tuple[str, ...] = SERVE, **where: Any
) -> list[float]:
    """Kill the service ``cycles`` times in the course of ``labels`` acknowledged answers; check its log at the end.

    Returns the seconds from each kill until the service was ready again.
    """
    options = [part for key, value in where.items() for part in (f"--{key}", value)]
    service = serve(*options, key=GIVEN_KEY)
    keys = prepare(service, duels=2 * labels)
    service.end()
    service = serve(*options, "--port", service.port, key=GIVEN_KEY, program=program)
    crowd, operator, draw, seconds = Crowd(service.url, keys), Operator(service.url), random.Random(3), []
    working = asyncio.gather(crowd.answer(), operator.answer())
    for cycle in range(1, cycles + 1):
        await grown(crowd, labels * cycle // (cycles + 1) + draw.randrange(10))
        began = time.monotonic()
        service.end()
        service = await asyncio.to_thread(serve, *options, "--port", service.port, key=GIVEN_KEY, program=program)
        seconds.append(time.monotonic() - began)
    await grown(crowd, labels)
    crowd.leave()
    operator.leave()
    await working
    check(service, crowd.acknowledged)
    check_imports(service, operator.imported)
    assert operator.handed_out >= cycles
    return seconds


def prepare(service: Process, duels: int) -> list[str]:
    """A run with duels, and keys of people."""
    with service.client(GIVEN_KEY) as admin:
        admin.put("/v1/runs/run", json={"repeat_share": 0.0, "gold_share": 0.0}).raise_for_status()
        for start in range(0, duels, 1000):
            queries = [
                {"client_key": f"k{n}", "prompt": f"p{n}", "first": "a", "second": "b"}
                for n in range(start, min(duels, start + 1000))
            ]
            admin.post("/v1/runs/run/queries:batch", json={"queries": queries}).raise_for_status()
        made = (admin.post("/v1/keys", json={"name": f"a{n}", "scopes": ["annotate"]}).json() for n in range(PEOPLE))
        return [one["key"] for one in made]


async def grown(crowd: Crowd, answers: int) -> None:
    """Until so many answers were acknowledged."""
    async with asyncio.timeout(300):
        while len(crowd.acknowledged) < answers:
            await asyncio.sleep(0.005)


def check(service: Process, acknowledged: list[str]) -> None:
    """What was acknowledged is in the log, once; positions have no gaps, and nobody answered a duel twice."""
    log: list[dict[str, Any]] = []
    with service.client(GIVEN_KEY) as admin:
        while page := admin.get("/v1/runs/run/labels", params={"after_seq": len(log)}).json()["labels"]:
            log += page
    assert seqs(log) == list(range(1, len(log) + 1))
    ids = Counter(entry["label_id"] for entry in log)
    assert max(ids.values()) == 1
    assert max(Counter(entry["query_id"] for entry in log).values()) == 1
    lost = set(acknowledged) - ids.keys()
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged answers are lost"


def check_imports(service: Process, imported: list[str]) -> None:
    """What was acknowledged of files is there, once."""
    listed: list[str] = []
    with service.client(GIVEN_KEY) as admin:
        after = None
        while True:
            asked = {"text": "file ", "limit": 500} | ({} if after is None else {"after": after})
            page = admin.get("/v1/runs/run/queries", params=asked).json()
            listed += [query["client_key"] for query in page["queries"]]
            if (after := page["next_after"]) is None:
                break
    assert len(set(listed)) == len(listed)
    lost = set(imported) - set(listed)
    assert not lost, f"{len(lost)} of {len(imported)} imported duels are lost"


async def test_no_acknowledged_answer_is_lost_or_doubled(serve: Callable[..., Process]) -> None:
    await survive(serve, cycles=4, labels=200)


async def test_acknowledging_before_the_commit_is_seen(serve: Callable[..., Process]) -> None:
    with pytest.raises(AssertionError, match="acknowledged answers are lost"):
        await survive(serve, cycles=3, labels=120, program=(*ALTERED, "acknowledge_first"))


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_ten_thousand_answers_and_fifty_kills(
    serve: Callable[..., Process], database_url: str, record_property: Callable[[str, object], None]
) -> None:
    seconds = await survive(serve, cycles=50, labels=10_000, database=database_url)
    print(f"\nready again after {sorted(seconds)[25]:.1f} s in the median, {max(seconds):.1f} s at most")
    assert max(seconds) < READY_SECONDS
