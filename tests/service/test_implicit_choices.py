"""A conversation that goes on with one side of a duel: kept apart from what users say, and gone with them."""

import asyncio
import json
import threading
from typing import Any

import pytest
from service.chat_service import EAGER, Chat, chatting
from service.test_chat_texts import SAID, USER, everything

from sea_agent.service.store import completion_texts, completions
from sea_agent.service.store.live_tables import implicit_choices

pytestmark = pytest.mark.anyio


async def duel(chat: Chat, user: str = USER) -> Any:
    """Two answers to what somebody said."""
    answer = await chat.create(SAID, user=user, duel=True)
    assert len(answer.choices) == 2
    return answer


async def go_on(chat: Chat, said: str, user: str = USER, **body: Any) -> Any:
    """The next turn of a conversation in which the response was ``said``."""
    texts = (("user", SAID), ("assistant", said), ("user", "And cooked?"))
    messages = [{"role": role, "content": text} for role, text in texts]
    return await chat.create(messages=messages, user=user, **body)


async def noted(chat: Chat) -> list[tuple[str, str]]:
    """The implicit choices on disk: of which completion, and which."""
    return [(row.completion_id, row.outcome) for row in await chat.table(implicit_choices)]


async def told(chat: Chat, **asked: Any) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """What the summary counts, and what is exported."""
    summary = (await chat.service.admin.get("/v1/live/live/summary", params=asked)).json()
    exported = (await chat.service.admin.get("/v1/live/live/implicit")).text
    return summary["implicit"], [json.loads(line) for line in exported.splitlines()]


@pytest.mark.parametrize(("side", "last_only"), [(0, False), (1, False), (1, True)])
async def test_going_on_with_one_side_is_counted_and_exported_and_is_no_label(
    database_url: str, monkeypatch: pytest.MonkeyPatch, side: int, last_only: bool
) -> None:
    async with chatting(database_url, monkeypatch, **EAGER) as chat:
        chat.engines[0].last_only = last_only
        answer = await duel(chat)
        texts = [choice.message.content for choice in answer.choices]
        assert await noted(chat) == []
        for said in (texts[side], texts[side], texts[1 - side]):  # the first time counts
            await go_on(chat, said)
        outcome = ("first", "second")[side]
        assert await noted(chat) == [(answer.id, outcome)]
        count, (row,) = await told(chat)
        assert count == {"first": 0, "second": 0} | {outcome: 1}
        assert row["prompt"] == [{"role": "user", "content": SAID}]
        assert [row["chosen"], row["rejected"]] == [
            [{"role": "assistant", "content": text}] for text in (texts[side], texts[1 - side])
        ]
        assert (row["completion_id"], row["side"], row["policy_version"]) == (answer.id, outcome, 1)
        assert await chat.service.log("live") == [], "nothing that could be learnt from"
        chat.clock.jump(10)
        assert (await told(chat, since="2027-01-15T08:00:01Z"))[0] == {"first": 0, "second": 0}


@pytest.mark.parametrize("first", [True, False])
async def test_what_the_user_says_takes_its_place_before_and_after(
    database_url: str, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    async with chatting(database_url, monkeypatch, **EAGER) as chat:
        answer = await duel(chat)
        for explicit in (first, not first):
            if explicit:
                said = await chat.openai.put(f"/feedback/{answer.id}/choice", body={"outcome": "tie"}, cast_to=object)
                assert said
            else:
                await go_on(chat, answer.choices[1].message.content)
        assert await noted(chat) == ([] if first else [(answer.id, "second")])
        assert await told(chat) == ({"first": 0, "second": 0}, [])
        assert [entry["outcome"] for entry in await chat.service.log("live")] == ["tie"]


async def test_other_turns_imply_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with chatting(database_url, monkeypatch, **EAGER) as chat:
        answer = await duel(chat)
        text = answer.choices[0].message.content
        await go_on(chat, text + "!")
        await go_on(chat, text, user="somebody else")
        await go_on(chat, text, store=False)
        await chat.create(messages=[{"role": "user", "content": SAID}, {"role": "user", "content": text}], user=USER)
        others = (("user", SAID), ("assistant", "x"), ("user", "y"), ("assistant", text), ("user", "z"))
        await chat.create(messages=[{"role": role, "content": said} for role, said in others], user=USER)
        assert await noted(chat) == []
        await go_on(chat, text)
        assert await noted(chat) == [(answer.id, "first")], "the negative control"


async def test_audits_are_counted_as_other_duels_are_but_not_exported(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chatting(database_url, monkeypatch, **EAGER | {"audit_share": 1.0}) as chat:
        answer = await duel(chat)
        await go_on(chat, answer.choices[0].message.content)
        assert [row.asked for row in await chat.rows()] == ["audit", None]
        assert await told(chat) == ({"first": 1, "second": 0}, [])


async def test_it_is_on_disk_with_the_next_request_or_not_at_all(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = completions.end

    def fail(*arguments: Any, **values: Any) -> None:
        end(*arguments, **values)
        raise RuntimeError("a fault after everything was written")

    async with chatting(database_url, monkeypatch, **EAGER) as chat:
        answer = await duel(chat)
        monkeypatch.setattr(completions, "end", fail)
        with pytest.raises(Exception, match="The service failed"):
            await go_on(chat, answer.choices[0].message.content)
        assert await noted(chat) == []
        monkeypatch.setattr(completions, "end", end)
        await go_on(chat, answer.choices[0].message.content)
        assert [row.state for row in await chat.rows()] == ["done", "failed", "done"]
        assert await noted(chat) == [(answer.id, "first")]


# --- erased ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forgotten", [False, True])
async def test_it_goes_with_its_user_and_those_of_others_stay(
    database_url: str, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    """``forgotten`` is the negative control: an erasure that leaves it is found."""
    async with chatting(database_url, monkeypatch, **EAGER) as chat:
        answers = {user: await duel(chat, user) for user in (USER, "other")}
        for user, answer in answers.items():
            await go_on(chat, answer.choices[1].message.content, user)
        assert len(await noted(chat)) == 2
        if forgotten:
            monkeypatch.setattr(completion_texts, "_forget_implied", lambda connection, ids: None)
        assert (await chat.service.admin.delete(f"/v1/users/{USER}")).status_code == 200
        left = [(answer.id, "second") for user, answer in answers.items() if forgotten or user != USER]
        assert await noted(chat) == left
        found = await everything(chat)
        assert all(choice.message.content not in found for choice in answers[USER].choices)
        assert [row["completion_id"] for row in (await told(chat))[1]] == [answers["other"].id]


async def test_of_who_is_erased_while_they_go_on_none_is_kept(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chatting(database_url, monkeypatch, **EAGER) as chat:
        answer = await duel(chat)
        (engine,) = chat.engines
        engine.release, engine.hold_after = threading.Event(), 1
        asked = asyncio.create_task(go_on(chat, answer.choices[0].message.content))
        assert await asyncio.to_thread(engine.held.acquire, timeout=30)
        assert (await chat.service.admin.delete(f"/v1/users/{USER}")).status_code == 200
        engine.release.set()
        await asked
        assert await noted(chat) == []
        assert SAID not in await everything(chat)
