"""A decider or candidates that fail, are late or make no sense: the answer is plain."""

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from service.chat_service import EAGER, Chat, chatting, collected, duel_of, names_two

pytestmark = pytest.mark.anyio


@pytest.fixture
async def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chat]:
    """A service that asks whoever may be asked."""
    async with chatting(f"sqlite:///{tmp_path / 'chat.sqlite'}", monkeypatch, engines=2, **EAGER) as chat:
        yield chat


NONSENSE: list[Any] = [
    500,
    401,
    b"",
    b"no JSON",
    b"[" * 10_000,
    [],
    None,
    {},
    {"pair": [0, 1], "best": 0},
    {"pair": [0, 1], "best": 0, "information": None},
    {"pair": [0, 1], "best": 0, "information": "a lot"},
    {"pair": [0, 1], "best": 0, "information": float("nan")},
    {"pair": [0, 1], "best": 0, "information": float("inf")},
    {"pair": [0, 1], "best": 0, "information": -1.0},
    {"pair": [0, 1], "best": 99, "information": 0.1},
    {"pair": [0, 1], "best": None, "information": 0.1},
    {"pair": [0, 99], "best": 0, "information": 0.1},
    {"pair": [0, -1], "best": 0, "information": 0.1},
    {"pair": [0], "best": 0, "information": 0.1},
    {"pair": [0, 1, 2], "best": 0, "information": 0.1},
    {"pair": ["0", "1"], "best": 0, "information": 0.1},
    {"pair": "01", "best": 0, "information": 0.1},
    {"pair": [0, 0], "best": 0, "information": 0.1},
    {"pair": None, "best": 0, "information": 0.1},
]


async def test_whatever_a_decider_says_the_answer_is_plain(chat: Chat) -> None:
    for number, nonsense in enumerate(NONSENSE):
        chat.decider.say = lambda body, nonsense=nonsense: nonsense  # type: ignore[misc]
        for streams in (False, True):
            answer = await chat.create(f"question {number} {streams}", duel=True, stream=streams)
            if streams:
                texts, reasons, chunks = await collected(answer)
                assert (len(texts), reasons) == (1, {0: "stop"}), nonsense
                assert chunks[-1].model_extra["sea"]["duel"] is None
            else:
                assert duel_of(answer) is None, nonsense
                assert len(answer.choices) == 1
    assert {row.state for row in await chat.rows()} == {"done"}
    chat.decider.say = names_two
    assert duel_of(await chat.create("a decider that came to its senses", duel=True)) is not None


async def test_a_decider_names_what_is_shown_or_nobody_is_asked(chat: Chat) -> None:
    chat.decider.say = lambda body: names_two(body) | {"pair": [1, 2]}
    texts, _, _ = await collected(await chat.create(duel=True, stream=True))
    assert len(texts) == 1
    assert duel_of(await chat.create("in one piece", duel=True)) is not None


async def test_two_responses_of_the_same_text_are_never_asked(chat: Chat) -> None:
    for engine in chat.engines:
        engine.script = lambda body: [(10, "the same"), (1, "")]
    chat.decider.say = lambda body: names_two(body) | {"pair": [0, 1]}
    assert duel_of(await chat.create(duel=True)) is None


@pytest.mark.parametrize("how", ["late", "down"])
async def test_without_a_decider_in_time_the_answer_is_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    async with chatting(url, monkeypatch, **EAGER | {"wait_seconds": 0.3}) as chat:
        if how == "down":
            chat.decider.stop()
        else:
            chat.decider.release = threading.Event()
        for streams in (False, True):
            answer = await chat.create(f"question {streams}", duel=True, stream=streams)
            if streams:
                assert len((await collected(answer))[0]) == 1
            else:
                assert duel_of(answer) is None
                assert len(answer.choices) == 1


async def test_without_candidates_in_time_the_answer_is_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    async with chatting(url, monkeypatch, **EAGER | {"wait_seconds": 0.3}) as chat:
        engine = chat.engines[0]
        slow = threading.Event()

        def scripted(body: dict[str, Any]) -> Any:
            if body["priority"]:
                slow.wait(60)
            return [(10, f"answer {body['seed']}"), (1, "")]

        engine.script = scripted
        answer = await chat.create(duel=True)
        slow.set()
        assert duel_of(answer) is None
        assert len(answer.choices) == 1
        assert chat.decider.asked == []


async def test_one_candidate_that_fails_costs_no_duel(chat: Chat) -> None:
    def scripted(body: dict[str, Any]) -> Any:
        if body["id"].endswith("-2"):
            raise RuntimeError("this one fails")
        return [(10, f"answer {body['seed']}"), (1, "")]

    for engine in chat.engines:
        engine.script = scripted
    assert duel_of(await chat.create(duel=True)) is not None
    assert len(chat.decider.asked[0]["responses"]) == 2
