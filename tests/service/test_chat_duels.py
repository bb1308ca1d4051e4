"""Which requests become duels, as their clients see it: those that allow one, seldom twice, and never by a fault."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service.chat_service import EAGER, Chat, chatting, collected, duel_of, names_two, text_of

from sea_agent.service.store.live_tables import live_users
from sea_agent.service.store.tables import assignments, queries

pytestmark = pytest.mark.anyio


@pytest.fixture
async def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chat]:
    """A service that asks whoever may be asked."""
    async with chatting(f"sqlite:///{tmp_path / 'chat.sqlite'}", monkeypatch, engines=2, **EAGER) as chat:
        yield chat


# --- a duel ----------------------------------------------------------------------------------------------------------


async def test_a_duel_is_two_choices_and_a_question_on_disk(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with chatting(database_url, monkeypatch, patience_hours=2.0, **EAGER) as chat:
        answer = await chat.create(duel=True)
        (row,) = await chat.rows()
        (query,) = await chat.table(queries)
        (assigned,) = await chat.table(assignments)
    told = duel_of(answer)
    assert told is not None
    assert told["id"] == query.id == row.query_id == assigned.query_id
    assert told["expires_at"] == "2027-01-15T10:00:00.000Z"
    assert query.expires_at == chat.clock.now + 7200
    assert (query.client_key, query.votes_needed, query.assigned, query.run) == (answer.id, 1, True, "live")
    assert assigned.annotator == row.user_hash != "u"
    shown = [choice.message.content for choice in answer.choices]
    assert len(set(shown)) == 2
    assert {query.first, query.second} == set(shown)
    assert query.prompt == "user: Can I freeze rice?"
    assert (row.asked, row.state, row.stored, row.eligible, row.heldout) == ("duel", "done", True, True, False)
    assert (row.information, row.regret, row.policy_version) == (0.2, 0.2, 1)
    assert [response["text"] for response in json.loads(row.responses)] == shown
    assert all(len(one["token_ids"]) == len(one["logprobs"]) == 7 for one in json.loads(row.responses))
    assert json.loads(row.messages) == [{"role": "user", "content": "Can I freeze rice?"}]
    assert answer.usage.completion_tokens == 14 == row.completion_tokens


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("as_sampled", [False, True])
async def test_what_is_seen_first_is_by_chance_where_it_is_drawn_and_of_two_samples_that_stream(
    chat: Chat, streams: bool, as_sampled: bool
) -> None:
    chat.decider.say = lambda body: names_two(body) | {"pair": [0, 1], "as_sampled": as_sampled}
    answer = await chat.create(duel=True, stream=streams)
    if streams:
        await collected(answer)
    (row,) = await chat.rows()
    assert (row.asked, row.by_chance) == ("duel", as_sampled or not streams)
    found = (await chat.service.admin.get("/v1/live/live/duels")).json()["duels"]
    assert [duel["by_chance"] for duel in found] == [row.by_chance]


@pytest.mark.parametrize(
    ("slow", "found"), [(None, ("duel", True)), ("the first", ("duel", False)), ("the second", (None, False))]
)
async def test_a_sample_that_would_have_been_late_as_the_second_is_not_first_by_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str | None, found: tuple[str | None, bool]
) -> None:
    """Else long responses would be first more often."""
    quick = 0.2
    async with chatting(
        f"sqlite:///{tmp_path / 'chat.sqlite'}", monkeypatch, **EAGER | {"wait_seconds": 60 if slow is None else quick}
    ) as chat:
        late = threading.Event()

        def scripted(body: dict[str, Any]) -> Any:
            if slow is not None and body["id"].endswith("-0" if slow == "the first" else "-1"):
                late.wait(10 * quick)
            return [(10, f"answer {body['seed']}"), (1, "")]

        chat.engines[0].script = scripted
        chat.decider.say = lambda body: names_two(body) | {"pair": [0, 1], "as_sampled": True}
        await collected(await chat.create(duel=True, stream=True))
        late.set()
        (row,) = await chat.rows()
        assert (row.asked, row.by_chance) == found


async def test_the_decider_gets_every_candidate_and_the_conversation(chat: Chat) -> None:
    answer = await chat.create(duel=True)
    (asked,) = chat.decider.asked
    assert asked["id"] == answer.id
    assert asked["shown"] is None
    assert asked["prompt"]["messages"] == [{"role": "user", "content": "Can I freeze rice?"}]
    assert asked["prompt"]["text"] == "user: Can I freeze rice?"
    assert len(asked["prompt"]["token_ids"]) == 5
    assert [one["text"] for one in asked["responses"]] == [
        text_of(body) for body in sorted(chat.generated(), key=lambda body: body["id"])
    ]
    assert sorted(body["priority"] for body in chat.generated()) == [0, 1, 1]


@pytest.mark.parametrize("last_only", [True, False])
async def test_of_a_conversation_only_what_the_policy_read_is_decided_on_kept_and_learnt_from(
    chat: Chat, last_only: bool
) -> None:
    """All of it is where the policy reads all of it: the negative control."""
    for engine in chat.engines:
        engine.last_only = last_only
    roles = ("user", "assistant", "user")
    messages: list[Any] = [{"role": role, "content": f"message {place}"} for place, role in enumerate(roles)]
    read = messages[-1:] if last_only else messages
    text = "\n".join(f"{message['role']}: {message['content']}" for message in read)
    await chat.create(messages=messages, duel=True)
    (asked,), (query,) = chat.decider.asked, await chat.table(queries)
    (learnt,) = (await chat.service.admin.get("/v1/live/live/duels")).json()["duels"]
    for prompt in (asked["prompt"], learnt["prompt"]):
        assert (prompt["text"], prompt["messages"]) == (text, read)
    assert query.prompt == text
    assert all(body["messages"] == messages for body in chat.generated())


async def test_the_order_of_the_two_is_drawn_where_nothing_streams(chat: Chat) -> None:
    firsts = []
    for number in range(40):
        answer = await chat.create(f"question {number}", user=f"u{number}", duel=True)
        (query,) = [query for query in await chat.table(queries) if query.client_key == answer.id]
        firsts.append(answer.choices[0].message.content == query.first)
    assert 8 < sum(firsts) < 32


async def test_in_a_stream_the_first_choice_comes_at_once_and_is_of_the_pair(chat: Chat) -> None:
    texts, reasons, chunks = await collected(await chat.create(duel=True, stream=True))
    (asked,) = chat.decider.asked
    assert asked["shown"] == 0
    assert asked["responses"][0]["text"] == texts[0]
    assert reasons == {0: "stop", 1: "stop"}
    (query,) = await chat.table(queries)
    assert (query.first, query.second) == (texts[0], texts[1])
    assert chunks[-1].choices == []
    assert chunks[-1].model_extra["sea"]["duel"]["id"] == query.id


async def test_a_choice_on_a_duel_is_a_label_in_the_order_of_the_duel(chat: Chat) -> None:
    for number in range(8):
        answer = await chat.create(f"question {number}", duel=True)
        choice = {"outcome": "second"}
        await chat.openai.put(f"/feedback/{answer.id}/choice", body=choice, cast_to=object)
        (query,) = [query for query in await chat.table(queries) if query.client_key == answer.id]
        entry = (await chat.service.log("live"))[-1]
        preferred = {"first": query.first, "second": query.second}[entry["outcome"]]
        assert preferred == answer.choices[1].message.content


async def test_best_of_several_is_shown_where_it_is_wanted_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'best.sqlite'}"
    async with chatting(url, monkeypatch, answer="best", best_of=4, ask_share=0.0) as chat:
        for streams in (False, True):
            chat.decider.asked.clear()
            answer = await chat.create(stream=streams)
            text = (await collected(answer))[0][0] if streams else answer.choices[0].message.content
            (asked,) = chat.decider.asked
            assert text == asked["responses"][3]["text"]
            assert len(asked["responses"]) == 4
        chat.decider.say = lambda body: names_two(body) | {"trust": 0.0}
        answer = await chat.create()
        assert answer.choices[0].message.content == chat.decider.asked[-1]["responses"][0]["text"]
        assert [(row.regret, row.information) for row in await chat.rows()] == [(0.1, None), (0.1, None), (0.3, None)]
        chat.engines[0].requests.clear()
        await chat.create(stop="rice")
        assert len(chat.generated()) == 1, "stop texts are looked for as the response comes"


# --- who is never asked ----------------------------------------------------------------------------------------------

PARAMETERS = {
    "stream": st.booleans(),
    "n": st.integers(1, 3),
    "temperature": st.sampled_from([0.0, 1.0]),
    "max_tokens": st.sampled_from([1, 5]),
    "seed": st.integers(0, 3),
    "stop": st.sampled_from(["rice", ["a", "b"]]),
    "user": st.sampled_from(["a", "b"]),
    "store": st.booleans(),
    "metadata": st.just({"sea": "allow"}),
    "stream_options": st.just({"include_usage": True}),
    "extra_body": st.sampled_from([{}, {"sea": {}}, {"sea": {"duel": "never"}}, {"duel": "allow"}]),
}
variations = st.fixed_dictionaries({}, optional=PARAMETERS)


async def never_asked(chat: Chat, more: dict[str, Any]) -> None:
    """A request gets exactly its choices, and no duel."""
    if not more.get("stream"):
        more.pop("stream_options", None)
    answer = await chat.create(**more)
    wanted = more.get("n", 1)
    if more.get("stream"):
        texts, reasons, chunks = await collected(answer)
        assert len(texts) == len(reasons) == wanted
        assert (chunks[-1].model_extra or {})["sea"]["duel"] is None
    else:
        assert len(answer.choices) == wanted
        assert duel_of(answer) is None


async def test_a_client_that_never_heard_of_duels_never_gets_one(chat: Chat) -> None:
    loop = asyncio.get_running_loop()

    @given(more=variations)
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def check(more: dict[str, Any]) -> None:
        asyncio.run_coroutine_threadsafe(never_asked(chat, more), loop).result(60)

    await asyncio.to_thread(check)
    assert await chat.table(queries) == []
    assert chat.decider.asked == []
    await chat.create(duel=True)
    assert len(await chat.table(queries)) == 1, "the decider would always ask"


OTHER_SAMPLES = [{"n": 2}, {"stop": "rice"}, {"temperature": 0.0}, {"temperature": 0.71}]


@pytest.mark.parametrize("more", [*OTHER_SAMPLES, {"store": False}])
async def test_what_cannot_be_a_duel_is_none(chat: Chat, more: dict[str, Any]) -> None:
    answer = await chat.create(duel=True, **more)
    assert duel_of(answer) is None
    assert len(answer.choices) == more.get("n", 1)
    assert [row.eligible for row in await chat.rows()] == [False]


async def test_who_names_the_temperature_of_the_run_may_be_asked(chat: Chat) -> None:
    assert duel_of(await chat.create(duel=True, temperature=0.7)) is not None
    assert {body["temperature"] for body in chat.generated()} == {0.7}


async def test_who_does_not_want_to_be_asked_is_not(chat: Chat) -> None:
    await chat.openai.put("/users/u/asks", body={"asks": False}, cast_to=object)
    for number in range(5):
        assert duel_of(await chat.create(f"question {number}", duel=True)) is None
    assert duel_of(await chat.create(user="other", duel=True)) is not None
    await chat.openai.put("/users/u/asks", body={"asks": True}, cast_to=object)
    assert duel_of(await chat.create(duel=True)) is not None


async def test_a_run_that_is_closed_asks_nobody_and_goes_on_answering(chat: Chat) -> None:
    await chat.service.admin.put("/v1/runs/live", json={"state": "closed"})
    assert duel_of(await chat.create(duel=True)) is None
    await chat.service.admin.put("/v1/runs/live", json={"state": "open"})
    assert duel_of(await chat.create(duel=True)) is not None


async def test_never_twice_in_a_row_in_a_conversation(chat: Chat) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}]
    asked = []
    for turn in range(6):
        messages.append({"role": "user", "content": f"turn {turn}"})
        answer = await chat.create(messages=messages, duel=True)
        asked.append(duel_of(answer) is not None)
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
    assert asked == [True, False] * 3


async def test_a_failed_request_between_does_not_count_as_one_that_did_not_ask(chat: Chat) -> None:
    assert duel_of(await chat.create(duel=True)) is not None
    for engine in chat.engines:
        engine.answer = 503
    with pytest.raises(Exception, match="No engine"):
        await chat.create(duel=True)
    for engine in chat.engines:
        engine.answer = None
    assert duel_of(await chat.create(duel=True)) is None


async def test_of_requests_of_one_conversation_at_once_one_is_asked(chat: Chat) -> None:
    answers = await asyncio.gather(*(chat.create(duel=True) for _ in range(8)))
    assert sum(duel_of(answer) is not None for answer in answers) == 1


async def test_held_out_conversations_are_never_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with chatting(
        f"sqlite:///{tmp_path / 'held.sqlite'}", monkeypatch, **EAGER | {"heldout_share": 0.5, "audit_share": 0.5}
    ) as chat:
        for number in range(40):
            await chat.create(f"question {number}", user=f"u{number}", duel=True)
        rows = await chat.rows()
    held = [row for row in rows if row.heldout]
    assert 8 < len(held) < 32
    assert all(row.asked is None and row.eligible for row in held)
    assert all(row.asked is not None for row in rows if not row.heldout)


async def test_a_user_has_no_more_duels_than_their_bucket_holds_also_after_a_start(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = EAGER | {"user_burst": 2.0, "user_asks_per_day": 24.0}
    counts = []
    clock = None
    for _ in range(2):  # two lives
        async with chatting(database_url, monkeypatch, clock=clock, **limits) as chat:
            clock = chat.clock
            answers = [await chat.create(f"question {number}", duel=True) for number in range(5)]
            counts.append(sum(duel_of(answer) is not None for answer in answers))
            (user,) = await chat.table(live_users)
            assert user.tokens == pytest.approx(0.0)
        clock.jump(3600)
    assert counts == [2, 1]


async def test_held_out_stays_held_out_and_users_stay_who_they_are_after_a_start(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = []
    for _ in range(2):
        async with chatting(database_url, monkeypatch, heldout_share=0.5) as chat:
            for number in range(12):
                await chat.create(f"question {number}", duel=True)
            lives.append([(row.heldout, row.conversation, row.user_hash) for row in (await chat.rows())[-12:]])
    assert lives[0] == lives[1]
    assert len({held for held, *_ in lives[0]}) == 2
