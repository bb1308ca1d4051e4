"""Annotators cannot tell gold duels and repeats from others by anything that the service sends to them.

One script of claims, answers, skips, late answers and corrections is played twice: with ordinary duels in some places,
and with gold duels or repeats there. A second script has other annotators, who take and answer duels while somebody is
away. What was sent is compared field by field; ids, texts and times are written alike first, so that what is the same
again stays the same. That a repeat shows what was shown before cannot be hidden: each lease of it has its own texts.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from service.conftest import ORIGIN, Clock, Running, fresh_postgresql, start

from sea_agent.service.auth import Caller
from sea_agent.service.store import leases, tables

pytestmark = pytest.mark.anyio

WARM_UP = 6  # ordinary duels first, which repeats repeat
PLACES = ("answer", "skip", "give back", "lapse", "late", "cancel", "expire")
NOT_OF_REPEATS = ("cancel", "expire")  # of an answered duel neither can come
WHILE_AWAY = (
    *("taken", "taken after a lapse", "taken for a while", "taken while it was there", "skipped by others"),
    *("answered late", "taken and drawn anew"),
)
Sent = list[tuple[str, int, dict[str, str], str]]


class Names:
    """Writes ids and texts by the order in which they were seen first; with ``repeats``, duels by that of the lease."""

    def __init__(self, repeats: bool) -> None:
        self._repeats = repeats
        self._numbers: dict[str, int] = {}
        self._next = count()

    def learn(self, lease: dict[str, str]) -> None:
        """A lease as it was sent; one that was seen before changes nothing."""
        if lease["lease_id"] in self._numbers:
            return
        number = self._number(lease["lease_id"])
        for name in (lease["query_id"], _of_text(lease["prompt"])):
            if self._repeats:
                self._numbers[name] = number
            self._numbers.setdefault(name, number)

    def alike(self, text: str) -> str:
        """What was sent, without what differs from run to run: ids, texts, their order, and times."""
        text = re.sub(r"\b(lease|query|label)-[0-9a-f]{20,}", lambda id_: f"{id_[1]} {self._number(id_[0])}", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME", text)
        text = re.sub(r'"prompt \d+"', lambda shown: f'"prompt of {self._number(_of_text(shown[0]))}"', text)
        return re.sub(r'"(first|second) \d+"', lambda shown: f'"response of {self._number(_of_text(shown[0]))}"', text)

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = next(self._next)
        return self._numbers[name]


def _of_text(text: str) -> str:
    """What the texts of a duel have in common."""
    return text.strip('"').split()[1]


class Player:
    """An annotator with a key, who notes everything that the service sends, also to their browser."""

    def __init__(self, service: Running, client: httpx.AsyncClient, browser: httpx.AsyncClient, repeats: bool) -> None:
        self.service, self.client, self.browser = service, client, browser
        self.names = Names(repeats)
        self.sent: Sent = []

    @classmethod
    async def join(cls, service: Running, name: str, repeats: bool = False) -> "Player":
        """Somebody with a key, who has signed in with it too."""
        _, secret = await service.state.keyring.make(name, frozenset({"annotate"}))
        browser, client = await service.client(), await service.client()
        browser.headers["Origin"] = ORIGIN
        browser.cookies.set(service.state.cookie, await service.state.keyring.sign_in(secret))
        client.headers["Authorization"] = f"Bearer {secret}"
        return cls(service, client, browser, repeats)

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = await self.client.request(method, path, json=body)
        told = answer.json() if answer.content else None
        if told is not None and path.endswith("/leases"):
            self.names.learn(told)
        self.note(f"{method} {path}", answer)
        return told

    def note(self, what: str, answer: httpx.Response) -> None:
        headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
        self.sent.append((self.names.alike(what), answer.status_code, headers, self.names.alike(answer.text)))

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

    async def work(self) -> str:
        """Take a duel and answer it; its lease."""
        lease = await self.claim()
        await self.answer(lease)
        return lease


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


async def played(url: str, kind: str | None, left_out: tuple[str, ...] = ()) -> Sent:
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
        await service.post(8, start=WARM_UP + len(places))  # for who gets another duel in the place of one that is over
        player = await Player.join(service, "ann", repeats="expire" in left_out)
        for number in range(WARM_UP + len(places)):
            special = number >= WARM_UP and places[number - WARM_UP]
            # What is drawn for this place; where there is no such duel, it is an ordinary one.
            await service.run(**shares(kind if special else None))
            await player.look()
            await play(player, special or "answer", queries.get(number))
        await player.look()
        await player.claim()
        kinds = {entry["kind"] for entry in await service.log()}
        assert kinds == {"vote", kind or "vote"}
        assert sum(status == 201 for what, status, *_ in player.sent if what.endswith("/leases")) > len(places)
        return player.sent


def shares(kind: str | None) -> dict[str, float]:
    """What is drawn from now on."""
    return {} if kind is None else {f"{kind}_share": 1.0}


async def leave(player: Player, others: list[Player], place: str, kind: str | None) -> bool:
    """What happens at one place while somebody is away from a duel; whether they find it again when they are back."""
    service = player.service
    await service.run(**shares(kind))
    lease = await player.claim(ttl_s=60)
    await service.run()  # from now on nothing special is drawn
    if place == "taken while it was there":
        for other in others:
            await other.work()
    if place == "taken after a lapse":
        service.clock.jump(61)
    else:
        await player.ask("DELETE", lease)
    taken = {}
    for other in others:
        if place in ("taken", "taken after a lapse", "answered late", "taken and drawn anew"):
            await other.work()
        elif place != "taken while it was there":
            taken[other] = await other.claim()
    if place == "skipped by others":
        for other, held in taken.items():
            await other.ask("POST", f"{held}/skip")
    if place == "answered late":
        await player.answer(lease, "tie")
    await player.look()
    if place == "taken and drawn anew":
        await service.run(**shares(kind))
    found = await player.work()
    if place == "taken for a while":
        for other, held in taken.items():
            await other.ask("DELETE", held)
        await player.work()
    return found == lease


async def played_together(
    url: str, kind: str | None, votes: int, others: int, repeats: bool = False
) -> tuple[Sent, list[bool]]:
    """Everything that was sent to an annotator who leaves duels to others, with duels of a kind in the places where
    they do (None: ordinary ones), and whether they found each again."""
    async with AsyncExitStack() as stack:
        service = await start(stack, url, Clock())
        await service.run(votes_needed=votes)
        await service.post(60)
        if kind == "gold":
            await service.post(2 * len(WHILE_AWAY), start=100, gold="first")
        player = await Player.join(service, "ann", repeats)
        company = [await Player.join(service, f"other {number}") for number in range(others)]
        for somebody in (player, *company):
            for _ in range(2 * WARM_UP):
                await somebody.work()
        found = []
        for place in WHILE_AWAY:
            found.append(await leave(player, company, place, kind))
            for somebody in (player, *company):
                await somebody.work()
        assert {entry["kind"] for entry in await service.log()} == {"vote", kind or "vote"}
        return player.sent, found


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Callable[[], str]:
    """A new database at each call."""
    names = iter("abcd")
    return lambda: f"sqlite:///{tmp_path / next(names)}.sqlite"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """The same, of each kind."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
    else:
        server = request.getfixturevalue("postgres_url")
        with ExitStack() as stack:
            yield lambda: stack.enter_context(contextmanager(fresh_postgresql)(server))


@pytest.fixture(autouse=True)
def early_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "REPEAT_AFTER", 1)


async def test_gold_duels_cannot_be_told(database: Callable[[], str]) -> None:
    ordinary, gold = await played(database(), None), await played(database(), "gold")
    assert gold == ordinary
    assert {201, 200, 204, 409, 403} <= {status for _, status, *_ in ordinary}
    assert any('"late":true' in body for *_, body in ordinary)


async def test_repeats_cannot_be_told(database: Callable[[], str]) -> None:
    ordinary, repeats = [await played(database(), kind, NOT_OF_REPEATS) for kind in (None, "repeat")]
    assert repeats == ordinary


TOGETHER = [(1, 1), (2, 1), (2, 2)]  # votes, and others who may give them


@pytest.mark.parametrize(("votes", "others"), TOGETHER)
@pytest.mark.parametrize("kind", ["gold", "repeat"])
async def test_what_others_take_meanwhile_does_not_tell(
    database: Callable[[], str], kind: str, votes: int, others: int
) -> None:
    repeats = kind == "repeat"
    ordinary, found = await played_together(database(), None, votes, others, repeats)
    special, found_special = await played_together(database(), kind, votes, others, repeats)
    assert found_special == found
    assert special == ordinary
    assert set(found) == {True, False}, "both happen: the duel is gone, and it is still there"


def as_if_nobody_took_anything(connection: Any, lease_id: str, known: dict[str, Any]) -> Any:
    """What was begun comes again, whoever has the duel for which it stands."""
    begun = connection.execute(leases._OF_LEASE, {"which": lease_id}).one()
    duel = connection.execute(leases._RESUMED[begun.kind], {**known, "which": begun.query_id}).first()
    return None if duel is None else leases._Offer(duel, begun.kind, leases._place_of(begun))


ONLY_VOTES_TAKE_PLACES: tuple[str, Any] = ("_place_of", lambda lease: lease.query_id if lease.kind == "vote" else None)
BREAKS: dict[str, tuple[str, Any]] = {
    "comes again whoever has the other": ("_resumed", as_if_nobody_took_anything),
    "never comes again": ONLY_VOTES_TAKE_PLACES,
    "is drawn anew": ("_NEW_GOLD", leases._UNANSWERED_GOLD),
}


@pytest.mark.parametrize("broken", BREAKS)
async def test_what_would_tell_as_others_take_duels_is_found(
    sqlite_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The deliberate faults: what was given back comes again, or does not, otherwise than an ordinary duel would."""
    monkeypatch.setattr(leases, *BREAKS[broken])
    ordinary, _ = await played_together(sqlite_database(), None, 1, 1)
    special, _ = await played_together(sqlite_database(), "gold", 1, 1)
    assert special != ordinary


@pytest.mark.parametrize("broken", ["counts", "what was begun", "expired duels"])
async def test_what_would_tell_is_found(
    sqlite_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, broken: str
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
    assert await played(sqlite_database(), None) != await played(sqlite_database(), "gold")
