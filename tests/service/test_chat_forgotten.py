"""A user who is erased while they are being answered: the answer reaches them, and nothing of it stays."""

import asyncio
import threading
from typing import Any

import pytest
from service.chat_service import EAGER, Chat, chatting
from service.test_chat_texts import SAID, USER, everything

from sea_agent.service.chat.flow import Flow
from sea_agent.service.chat.gateway import Gateway
from sea_agent.service.store import live_runs
from sea_agent.service.store.live_tables import live_runs as runs_table

pytestmark = pytest.mark.anyio


async def erased_meanwhile(chat: Chat, **body: Any) -> tuple[Any, str]:
    """An answer during which its user is erased, and every value of every table after it."""
    await chat.create("before", user=USER)
    (engine,) = chat.engines
    engine.release = threading.Event()
    engine.hold_after = 1
    asked = asyncio.create_task(chat.create(SAID, user=USER, duel=True, **body))
    assert await asyncio.to_thread(engine.held.acquire, timeout=30)
    erased = await chat.service.admin.delete(f"/v1/users/{USER}")
    assert erased.status_code == 200, erased.text
    engine.release.set()
    answer = await asked
    return answer, await everything(chat)


@pytest.mark.parametrize("once", [{}, {"extra_headers": {"Idempotency-Key": "k1"}}], ids=["plain", "idempotent"])
async def test_nothing_is_kept_of_who_was_erased_while_they_were_answered(
    database_url: str, monkeypatch: pytest.MonkeyPatch, once: dict[str, Any]
) -> None:
    async with chatting(database_url, monkeypatch, **EAGER) as chat:
        answer, found = await erased_meanwhile(chat, **once)
        (run,) = await chat.table(runs_table)
        assert answer.choices[0].message.content
        assert answer.model_extra["sea"]["duel"] is None
        assert SAID not in found
        assert answer.choices[0].message.content not in found
        assert live_runs.hashed(run.secret, USER) not in found
        last = (await chat.rows())[-1]
        assert (last.state, last.stored, last.user_hash, last.query_id) == ("done", False, None, None)
        assert last.completion_tokens, "counts are kept"
        again = await chat.create(SAID, user=USER, duel=True, **once)
        assert again.id != answer.id, "what was forgotten is not answered again"


@pytest.mark.parametrize("before", ["_claim", "_plan"])
async def test_nothing_is_kept_of_who_was_erased_before_their_request_was_begun(
    database_url: str, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """While it waits for the same request to end, or for what is known of its user."""
    arrived, goes_on, wait = asyncio.Event(), asyncio.Event(), getattr(Gateway, before)

    async def held(self: Gateway, *given: Any) -> Any:
        found = await wait(self, *given)
        arrived.set()
        await goes_on.wait()
        return found

    async with chatting(database_url, monkeypatch, **EAGER) as chat:
        await chat.create("before", user=USER)
        monkeypatch.setattr(Gateway, before, held)
        once = {"extra_headers": {"Idempotency-Key": "k1"}}
        asked = asyncio.create_task(chat.create(SAID, user=USER, duel=True, **once))
        async with asyncio.timeout(30):
            await arrived.wait()
        assert (await chat.service.admin.delete(f"/v1/users/{USER}")).status_code == 200
        goes_on.set()
        answer = await asked
        found, (run,) = await everything(chat), await chat.table(runs_table)
        assert answer.choices[0].message.content
        assert SAID not in found
        assert live_runs.hashed(run.secret, USER) not in found
        last = (await chat.rows())[-1]
        assert (last.state, last.stored, last.user_hash, last.idempotency_key) == ("done", False, None, None)
        flow = chat.service.state.gateway.flow
        await chat.eventually(lambda: not flow._known)
        assert not flow._forgotten


async def test_what_comes_back_after_an_erasure_is_found(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(Flow, "forget", lambda self, user_hash, owner: None)
    async with chatting(database_url, monkeypatch, **EAGER) as chat:
        _, found = await erased_meanwhile(chat)
        assert SAID in found
