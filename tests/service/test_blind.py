"""Annotators cannot tell gold duels and repeats from others by anything that the service sends to them.

One script of claims, answers, skips, late answers and corrections is played twice: with ordinary duels in some places,
and with gold duels or repeats there. What was sent is compared field by field; ids and times are written alike first.
That a repeat shows texts that were shown before cannot be hidden, so they are written alike where repeats are compared.
"""

import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from service.conftest import ORIGIN, Clock, Running, start

from sea_agent.service.auth import Caller
from sea_agent.service.store import leases, tables

pytestmark = pytest.mark.anyio

WARM_UP = 6  # ordinary duels first, which repeats repeat
PLACES = ("answer", "skip", "give back", "lapse", "late", "cancel", "expire")
NOT_OF_REPEATS = ("cancel", "expire")  # of an answered duel neither can come
Sent = list[tuple[str, int, dict[str, str], str]]


def alike(text: str, texts: bool) -> str:
    """What was sent, with every id and time, and the order of the responses, written alike; texts too if asked for."""
    text = re.sub(r"\b(lease|query|label)-[0-9a-f]{20,}", r"\1-ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME", text)
    text = re.sub(r'"(first|second) (\d+)"', r'"response \2"', text)
    return re.sub(r'"(prompt|response) \d+"', r'"\1"', text) if texts else text


class Player:
    """An annotator with a key for one run, who notes everything that the service sends, also to their browser."""

    def __init__(self, service: Running, client: httpx.AsyncClient, browser: httpx.AsyncClient, texts: bool) -> None:
        self.service, self.client, self.browser, self.texts = service, client, browser, texts
        self.sent: Sent = []

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = await self.client.request(method, path, json=body)
        self.note(f"{method} {path}", answer)
        return answer.json() if answer.content else None

    def note(self, what: str, answer: httpx.Response) -> None:
        headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
        self.sent.append((alike(what, self.texts), answer.status_code, headers, alike(answer.text, self.texts)))

    async def look(self) -> None:
        """Everything else that an annotator may read."""
        for path in ("/v1/runs", "/v1/runs/run", "/v1/runs/run/progress", "/v1/runs/run/labels", "/v1/runs/run/events"):
            await self.ask("GET", path)
        for path in ("/label", "/label/run"):
            self.note(path, await self.browser.get(path))

    async def claim(self, **body: int) -> str:
        lease = await self.ask("POST", "/v1/runs/run/leases", body)
        return "none" if lease is None else f"/v1/leases/{lease['lease_id']}"

    async def answer(self, lease: str, outcome: str = "first") -> Any:
        return await self.ask("PUT", f"{lease}/label", {"outcome": outcome})


async def play(player: Player, place: str, query: str | None) -> None:
    """What happens at one place, from claiming the duel to leaving it."""
    clock, admin = player.service.clock, player.service.admin
    lease = await player.claim(ttl_s=60)
    match place:
        case "answer":
            await player.claim()
            await player.ask("PATCH", lease, {"ttl_s": 300})
            given = await player.answer(lease)
            await player.answer(lease)
            await player.answer(lease, "tie")
            await player.ask("POST", f"{lease}/skip")
            await player.ask("PATCH", lease, {})
            await player.ask("DELETE", lease)
            for outcome in ("second", "second", "both_bad"):
                await player.ask("POST", f"/v1/labels/{given['label_id']}/revisions", {"outcome": outcome})
        case "skip":
            for _ in range(2):
                await player.ask("POST", f"{lease}/skip")
            await player.answer(lease)
        case "give back":
            for _ in range(2):
                await player.ask("DELETE", lease)
            await player.service.run()  # from now on nothing special is drawn
            await player.look()
            await player.answer(await player.claim())
        case "lapse":
            clock.jump(61)
            await player.ask("PATCH", lease, {})
            await player.service.run()
            await player.answer(await player.claim(), "second")
        case "late":
            clock.jump(61)
            await player.answer(lease, "tie")
        case "cancel":
            await admin.post(f"/v1/queries/{query}/cancel")
            await player.ask("PATCH", lease, {})
            await player.answer(lease)
        case "expire":
            await player.ask("PATCH", lease, {"ttl_s": 3600})
            clock.jump(1800)
            await player.ask("PATCH", lease, {"ttl_s": 3600})
            await player.answer(await player.claim())
            await player.answer(lease)


async def played(url: str, kind: str | None, texts: bool = False, left_out: tuple[str, ...] = ()) -> Sent:
    """Everything that was sent to an annotator, with duels of a kind in every other place (None: ordinary ones)."""
    places = [place for name in PLACES if name not in left_out for place in (name, None)]
    async with AsyncExitStack() as stack:
        service = await start(stack, url, Clock())
        await service.run()
        queries: dict[int, str] = {}
        for number in range(WARM_UP + len(places)):
            special = number >= WARM_UP and places[number - WARM_UP]
            if special and kind == "repeat":
                continue
            gold = {"gold": "first"} if special and kind == "gold" else {}
            ends = {"expires_at": "2027-01-15T08:20:00Z"} if special == "expire" else {}
            (queries[number],) = await service.post(1, start=number, **gold, **ends)
        await service.post(2, start=WARM_UP + len(places))  # for who gets another duel in the place of one that is over
        _, secret = await service.state.keyring.make("ann", frozenset({"annotate"}))
        browser = await service.client()
        browser.headers["Origin"] = ORIGIN
        browser.cookies.set(service.state.cookie, await service.state.keyring.sign_in(secret))
        client = await service.client()
        client.headers["Authorization"] = f"Bearer {secret}"
        player = Player(service, client, browser, texts)
        for number in range(WARM_UP + len(places)):
            special = number >= WARM_UP and places[number - WARM_UP]
            # What is drawn for this place; where there is no such duel, it is an ordinary one.
            await service.run(**{f"{kind}_share": 1.0 if special else 0.0} if kind else {})
            await player.look()
            await play(player, special or "answer", queries.get(number))
        await player.look()
        await player.claim()
        kinds = {entry["kind"] for entry in await service.log()}
        assert kinds == {"vote", kind or "vote"}
        assert sum(status == 201 for what, status, *_ in player.sent if what.endswith("/leases")) > len(places)
        return player.sent


@pytest.fixture
def database(tmp_path: Path) -> Callable[[], str]:
    """A new database at each call."""
    names = iter("abcd")
    return lambda: f"sqlite:///{tmp_path / next(names)}.sqlite"


@pytest.fixture(autouse=True)
def early_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "REPEAT_AFTER", 1)


async def test_gold_duels_cannot_be_told(database: Callable[[], str]) -> None:
    ordinary, gold = await played(database(), None), await played(database(), "gold")
    assert gold == ordinary
    assert {201, 200, 204, 409, 403} <= {status for _, status, *_ in ordinary}
    assert any('"late":true' in body for *_, body in ordinary)


async def test_repeats_cannot_be_told(database: Callable[[], str]) -> None:
    ordinary, repeats = [await played(database(), kind, True, NOT_OF_REPEATS) for kind in (None, "repeat")]
    assert repeats == ordinary


@pytest.mark.parametrize("broken", ["counts", "what was begun", "expired duels"])
async def test_what_would_tell_is_found(
    database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The deliberate faults: the counts that once went to everybody; what was given back is drawn anew; a gold duel
    outlives its time."""
    if broken == "counts":
        monkeypatch.setattr(Caller, "only_annotates", False)
    elif broken == "what was begun":
        never = leases._REPEAT.where(tables.queries.c.id.is_(None))
        monkeypatch.setattr(leases, "_RESUMED", dict.fromkeys(tables.KINDS, never))
    else:
        again = leases._again

        def as_before(connection: Any, lease_id: str, expires_at: float) -> Any:
            held = connection.execute(leases._HELD, {"which": lease_id}).one()
            if held.kind != "gold":
                return again(connection, lease_id, expires_at)
            connection.execute(leases._SET_END, {"which": lease_id, "new_end": expires_at})
            return leases._presented(held, lease_id, held.query_id, held.run, held.swapped, expires_at)

        monkeypatch.setattr(leases, "_again", as_before)
    assert await played(database(), None) != await played(database(), "gold")
