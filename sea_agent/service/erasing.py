"""Erasing on the running service: the keys in memory follow, and the files of the database are purged.

Much is erased in several transactions, so that answers are stored between them.

Texts whose time has passed are erased when the service starts, and then every hour.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from sea_agent.service.state import State
from sea_agent.service.store import erasure, live_erasure, purge, roster
from sea_agent.service.store.database import StoreUnavailable
from sea_agent.service.store.erasure import Erased
from sea_agent.web.signals import Topic, work

HOUR = 3600.0
_TRIES = 5
_PATIENCE = 1.0
"""Seconds between them."""
_HELD = (
    "It is still in files of the database, as somebody else has been reading that since before, for example to back it "
    "up. The service removes it within an hour after they end."
)

_FAILED = (
    "It is still in files of the database, which could not be written anew; the service's log says why, for example "
    "that the disk is full. The service tries again within an hour."
)

logger = logging.getLogger(__name__)


async def person(service: State, annotator: str) -> tuple[Erased, list[str]]:
    """Erase a person; what became of them, and what is left in files, and why.

    Raises:
        Missing: for an unknown person.
        Problem: 409 for whoever holds the last admin key.
    """
    with service.keyring.barred(annotator):

        def committed(erased: Erased) -> Sequence[Topic]:
            service.keyring.replace(erased.keys)
            return [work(run) for run in erased.runs]

        now = service.now()
        while await service.database.write(partial(erasure.forget_comments, annotator=annotator, now=now)):
            pass
        erase = partial(erasure.erase_person, annotator=annotator, now=now)
        erased = await service.database.write(erase, wake=committed)
    return erased, await purge_files(service)


async def end(service: State, annotator: str) -> None:
    """End the keys, sessions, leases and open assignments of a person.

    Raises:
        Missing: for an unknown person.
        Problem: 409 for whoever holds the last admin key.
    """
    with service.keyring.barred(annotator):

        def committed(ended: roster.Ended) -> Sequence[Topic]:
            service.keyring.replace(ended.keys)
            return [work(run) for run in ended.runs]

        close = partial(roster.end, annotator=annotator, now=service.now())
        await service.database.write(close, wake=committed)


async def query(service: State, query_id: str) -> tuple[int, list[str]]:
    """Erase the texts of a duel; of how many (0 or 1), and what is left. Raises: Missing."""
    erase = partial(erasure.erase_query, query_id=query_id, now=service.now())
    _, duels = await service.database.write(erase, wake=lambda done: [work(done[0])])
    return duels, await purge_files(service)


async def run(service: State, run: str) -> tuple[int, list[str]]:
    """Erase the texts of a run; of how many duels, and what is left. Raises: Missing."""
    erase = partial(erasure.erase_run, run=run, now=service.now())
    total = erased = await service.database.write(erase, wake=lambda _: [work(run)])
    while erased == erasure.MOST_AT_ONCE:
        erased = await service.database.write(erase, wake=lambda _: [work(run)])
        total += erased
    return total, await purge_files(service)


async def user(
    service: State, user: str, owner: str | None, runs: frozenset[str] | None
) -> tuple[live_erasure.ErasedUser, list[str]]:
    """Erase a user of live mode in the runs that a key reaches: what the key ``owner`` asked for them, or any (None).
    What became of them, and what is left.

    Raises:
        Missing: for a user of whom nothing is known.
    """
    if service.gateway is not None and (runs is None or service.gateway.run in runs):
        service.gateway.forget(user, owner)  # first: what is written later is of nobody
    erase = partial(live_erasure.erase_user, user=user, owner=owner, by=runs, now=service.now())
    erased = await service.database.write(erase, wake=lambda done: [work(run) for run in done.runs])
    return erased, await purge_files(service)


async def keep_to_retention(service: State) -> None:
    """Erase what runs have kept for long enough, and purge what an earlier erasure left, now and every hour."""
    while True:
        try:
            await _erase_past(service)
        except StoreUnavailable as error:
            logger.error("texts whose time has passed are not erased yet: %s", error)
        await service.settings.pause(HOUR)


async def _erase_past(service: State) -> None:
    database = service.database
    total = 0
    while await database.read(partial(erasure.has_past, now=service.now())):
        total += await database.write(partial(erasure.erase_past, now=service.now()))
    if total:
        logger.info("erased the texts of %d duels, which their runs have kept for long enough", total)
    requests = 0
    while await database.read(partial(live_erasure.has_past, now=service.now())):
        requests += await database.write(partial(live_erasure.erase_past, now=service.now()))
    if requests:
        logger.info("erased the texts of %d requests, which their runs have kept for long enough", requests)
    if await database.read(purge.due):
        for sentence in await purge_files(service):
            logger.warning("%s", sentence)


async def purge_files(service: State) -> list[str]:
    """Remove what was erased from the files of the database; what is left there, and why."""
    for _ in range(_TRIES):
        try:
            return await service.database.maintain(purge.purge)
        except purge.Held:
            await asyncio.sleep(_PATIENCE)
        except StoreUnavailable:
            return [_FAILED]
    return [_HELD]
