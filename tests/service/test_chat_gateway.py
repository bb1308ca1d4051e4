"""Which engine answers whom, who reaches the endpoint, and what the gateway forgets."""

from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from service.chat_service import Chat, chatting

from sea_agent.service import limits
from sea_agent.service.limits import RateLimit
from sea_agent.service.store.completions import make_run
from sea_agent.web.problems import Problem

pytestmark = pytest.mark.anyio

BODY = {"model": "live", "messages": [{"role": "user", "content": "hello"}]}


def hold(chat: Chat, *engines: tuple[int | None, int | None]) -> None:
    """What each engine should hold, and what it holds, as it was looked at last."""
    for state, (wanted, version) in zip(chat.service.state.gateway.serving.engines, engines, strict=True):
        state.wanted, state.version = wanted, version


async def test_only_keys_of_the_scope_reach_the_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch) as chat:
        statuses: dict[str, tuple[int, int]] = {}
        for scope in ("admin", "experiment", "annotate", "read", "chat", ""):
            client = await chat.service.client(*([scope] if scope else []))
            answers = (await client.post("/v1/chat/completions", json=BODY), await client.get("/v1/models"))
            statuses[scope] = (answers[0].status_code, answers[1].status_code)
            assert all(answer.is_success or answer.json().keys() == {"error"} for answer in answers)
    refused, let_in = (403, 403), (200, 200)
    assert statuses == {
        "admin": let_in,
        "experiment": refused,
        "annotate": refused,
        "read": refused,
        "chat": let_in,
        "": (401, 401),
    }


async def test_the_chat_page_asks_the_run_that_this_service_answers_or_says_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch) as chat:
        await chat.service.state.database.write(
            partial(make_run, run="newer", secret="s", retention_days=None, now=2e9)
        )
        seen = {}
        for runs in (None, ["live"], ["newer"]):
            restricted = {} if runs is None else {"runs": runs}
            key = {"name": f"of {runs}", "scopes": ["chat"]} | restricted
            made = (await chat.service.admin.post("/v1/keys", json=key)).json()["key"]
            visitor = await chat.service.client()
            visitor.cookies.set(chat.service.state.cookie, await chat.service.state.keyring.sign_in(made))
            answer = await visitor.get("/chat")
            seen[str(runs)] = (answer.status_code, 'data-model="live"' in answer.text, "no chat here" in answer.text)
    there = (200, True, False)
    assert seen == {"None": there, "['live']": there, "['newer']": (404, False, True)}


async def test_a_canary_answers_its_share_of_users_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = {"canary_share": 0.3}
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch, engines=3, gate=gate) as chat:
        for _ in range(6):
            await chat.create()
        assert [len(engine.requests) for engine in chat.engines] == [2, 2, 2], "without a canary, in turn"
        hold(chat, (8, 8), (8, 8), (9, 9))
        place = chat.service.state.gateway._place
        places = {f"user {number}": place(f"user {number}") for number in range(600)}
        assert all(place(user) == found for user, found in places.items())
        counts = [list(places.values()).count(number) for number in range(3)]
        assert 130 < counts[2] < 230
        assert min(counts[:2]) > 150, "the others share what is left"
        for engine in chat.engines:
            engine.requests.clear()
        for _ in range(4):
            await chat.create(user="one of them")
        assert sorted(len(engine.requests) for engine in chat.engines) == [0, 0, 4]


async def test_where_the_canary_is_dead_its_users_are_answered_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = {"canary_share": 1.0}
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch, engines=2, gate=gate) as chat:
        hold(chat, (8, 8), (9, 9))
        chat.engines[1].stop()
        assert (await chat.create()).choices[0].message.content
        assert len(chat.engines[0].requests) == 1


@pytest.mark.parametrize(
    ("engines", "places"),
    [
        ([(8, 8), (8, 8), (8, 8)], {None}),
        ([(8, 8), (8, 8), (8, 9)], {0, 1}),  # a canary was taken back, and is still there
        ([(8, 8), (8, 0), (8, 8)], {0, 2}),  # this one has just started anew
        ([(9, 8), (9, 9), (9, 8)], {1}),  # something went live, and two have not loaded it
        ([(9, 8), (9, 8), (9, 8)], {None}),  # nobody has
        ([(8, 8), (8, None), (8, 8)], {None}),  # what it holds nobody knows yet
        ([(None, 0), (None, 3), (None, 0)], {None}),
        ([(8, 8), (8, 8), (9, 9)], {0, 1, 2}),  # a canary
        ([(8, 8), (8, 0), (9, 9)], {0, 2}),
        ([(8, 8), (8, 8), (9, 0)], {0, 1}),
        ([(8, 8), (8, 8), (9, 8)], {0, 1}),
    ],
    ids=str,
)
async def test_nobody_is_shown_what_an_engine_should_not_hold_while_others_do_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: list[tuple[int | None, int | None]], places: set[int]
) -> None:
    """``engines``: the version that each should hold, and the one that it holds."""
    gate = {"canary_share": 0.3}
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch, engines=3, gate=gate) as chat:
        hold(chat, *engines)
        gateway = chat.service.state.gateway
        assert {gateway._place(f"user {number}") for number in range(100)} == places


async def test_a_page_of_another_site_cannot_ask_in_somebodys_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch) as chat:
        state = chat.service.state
        browser = await chat.service.client()
        browser.cookies.set(state.cookie, await state.keyring.sign_in(chat.key))
        own = {"Origin": str(browser.base_url).rstrip("/")}

        async def ask(headers: dict[str, str]) -> httpx.Response:
            return await browser.post("/v1/chat/completions", json=BODY, headers=headers)

        assert (await ask({"Origin": "https://elsewhere.test"})).status_code == 403
        assert (await ask(own)).status_code == 200
        (row,) = await chat.rows()
        assert row.key_id == chat.key_id, "what a session asks is its key's"


@pytest.mark.parametrize("most", [5, 10**9])
def test_callers_are_forgotten_only_when_it_makes_no_difference(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_BUCKETS", most)
    now = [0.0]
    rate = RateLimit(1.0, 2, lambda: now[0])
    answers: list[Any] = []
    for step in range(300):
        now[0] = step * 0.4
        for key in ("always", f"once {step}", f"once {step - 1}"):
            try:
                rate.take(key)
                answers.append(True)
            except Problem:
                answers.append(False)
    always = answers[::3]
    assert sum(always) == pytest.approx(2 + 300 * 0.4, abs=1)
    assert all(answers[1::3])
    assert all(answers[2::3])
    assert (len(rate._buckets) < 20) == (most == 5)
