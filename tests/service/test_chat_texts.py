"""What is kept of a request, and under which name: nothing with ``store: false``."""

import hashlib
import hmac
import json

import pytest
from service.chat_service import EAGER, Chat, chatting
from sqlalchemy import Connection, select

from sea_agent.service.store.live_tables import live_runs, metadata

pytestmark = pytest.mark.anyio

SAID = "a sentence that stands nowhere else"
USER = "ann.walker@example.org"


async def everything(chat: Chat) -> str:
    """Every value of every table."""

    def read(connection: Connection) -> str:
        rows = [row for table in metadata.sorted_tables for row in connection.execute(select(table))]
        return "\n".join(str(tuple(row)) for row in rows)

    return await chat.service.state.database.read(read)


async def request(chat: Chat, stored: bool, streams: bool) -> list[str]:
    """A request; the texts of it and of its answer."""
    answer = await chat.create(
        f"{SAID} {streams}", user=USER, duel=True, store=stored, stream=streams, extra_headers={"Idempotency-Key": "k"}
    )
    if streams:
        chunks = [chunk async for chunk in answer]
        contents = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
        return [SAID, *{text for text in "".join(contents).split(" ") if len(text) > 3}]
    return [SAID, answer.choices[0].message.content]


@pytest.mark.parametrize("streams", [False, True])
async def test_nothing_is_kept_of_what_is_not_to_be_stored(
    database_url: str, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    async with chatting(database_url, monkeypatch, **EAGER) as chat:
        texts = await request(chat, stored=False, streams=streams)
        found = await everything(chat)
        assert not [text for text in texts if text in found]
        (row,) = await chat.rows()
        assert (row.state, row.stored, row.eligible) == ("done", False, False)
        assert (row.messages, row.prompt, row.responses, row.answer) == ("[]", "{}", "[]", "")
        assert row.prompt_tokens
        assert row.completion_tokens, "counts are kept"
        prompts = (await chat.service.admin.get("/v1/live/live/prompts")).json()["prompts"]
        assert prompts == []
    async with chatting(database_url, monkeypatch, **EAGER) as chat:  # the negative control: they are found if kept
        chat.openai = await chat.app("other")
        texts = await request(chat, stored=True, streams=streams)
        found = await everything(chat)
        assert [text for text in texts if text in found]
        assert len((await chat.service.admin.get("/v1/live/live/prompts")).json()["prompts"]) == 1


async def test_no_digest_that_could_confirm_a_guess_is_kept(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the table and guesses user and text cannot tell without the run's secret whether they are right."""
    async with chatting(database_url, monkeypatch) as chat:
        await chat.create("short", user=USER, store=False)
        (row,) = await chat.rows()
        (run,) = await chat.table(live_runs)
    conversation = json.dumps([row.user_hash, [{"content": "short", "role": "user"}]], separators=(",", ":"))
    digest = hashlib.sha256(conversation.encode()).hexdigest()
    assert row.conversation != digest
    assert row.conversation == hmac.new(run.secret.encode(), digest.encode(), hashlib.sha256).hexdigest()


async def test_users_are_kept_as_keyed_hashes(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with chatting(database_url, monkeypatch, **EAGER) as chat:
        await chat.create(user=USER, duel=True)
        found = await everything(chat)
        (row,), (run,) = await chat.rows(), await chat.table(live_runs)
    assert USER not in found
    assert hashlib.sha256(USER.encode()).hexdigest() not in found
    assert row.user_hash == hmac.new(run.secret.encode(), USER.encode(), hashlib.sha256).hexdigest()


async def test_who_is_not_named_is_one_user_of_their_app(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with chatting(database_url, monkeypatch) as chat:
        other = await chat.app("other")
        for client in (chat.openai, chat.openai, other):
            await client.chat.completions.create(model="live", messages=[{"role": "user", "content": "x"}])
        first, second, third = [row.user_hash for row in await chat.rows()]
    assert first == second != third
