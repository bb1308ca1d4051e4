"""OpenAI's client, unchanged, before the gateway: what it is answered, in one piece and as a stream, and its errors."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import openai
import pytest
from live_stub import FIRST_ID, WORDS, scripted
from service.chat_service import EAGER, Chat, chatting, collected, duel_of, text_of

from sea_agent.service.chat.flow import Event
from sea_agent.service.chat.gateway import Reply
from sea_agent.service.routes.chat import _lines
from sea_agent.service.schemas.chat import ChatIn

pytestmark = pytest.mark.anyio

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chat]:
    async with chatting(f"sqlite:///{tmp_path / 'chat.sqlite'}", monkeypatch) as chat:
        yield chat


def by_index(chat: Chat) -> list[str]:
    """The texts that the engine gave, by the number of the choice."""
    return [text_of(body) for body in sorted(chat.generated(), key=lambda body: body["id"])]


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_a_completion_has_openais_shape_and_what_the_engine_sampled(chat: Chat) -> None:
    answer = await chat.openai.chat.completions.create(model="live", messages=HELLO)
    (body,) = chat.generated()
    assert [choice.message.content for choice in answer.choices] == [text_of(body)]
    assert (answer.object, answer.model, answer.choices[0].finish_reason) == ("chat.completion", "live", "stop")
    assert answer.choices[0].message.role == "assistant"
    assert answer.id.startswith("chatcmpl-")
    assert answer.created == int(chat.clock.now)
    usage = answer.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (2, 7, 9)
    assert (answer.model_extra or {})["sea"] == {"policy_version": 1, "duel": None}


async def test_what_the_engine_is_asked_follows_from_the_request(chat: Chat) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    for more in ({}, {"temperature": 0.25, "max_tokens": 5}, {"max_completion_tokens": 4, "max_tokens": 9}):
        await chat.openai.chat.completions.create(model="live", messages=messages, **more)
    first, second, third = chat.generated()
    assert first["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    assert (first["temperature"], first["max_new_tokens"], first["priority"]) == (0.7, 32, 0)
    assert (second["temperature"], second["max_new_tokens"]) == (0.25, 5)
    assert third["max_new_tokens"] == 4
    assert "weights" not in first
    assert first["stop_after"] == []


async def test_a_response_that_reaches_its_length_says_so(chat: Chat) -> None:
    answer = await chat.create(max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3
    _, reasons, _ = await collected(await chat.create(max_tokens=3, stream=True))
    assert reasons == {0: "length"}


async def test_no_more_tokens_are_sampled_than_the_policy_may(chat: Chat) -> None:
    await chat.create(max_tokens=100_000)
    assert chat.generated()[0]["max_new_tokens"] == 32


@pytest.mark.parametrize("count", [1, 3, 8])
async def test_n_choices_are_n_samples(chat: Chat, count: int) -> None:
    answer = await chat.create(n=count)
    assert [choice.index for choice in answer.choices] == list(range(count))
    assert [choice.message.content for choice in answer.choices] == by_index(chat)
    assert len(set(by_index(chat))) == count
    assert answer.usage.completion_tokens == 7 * count
    chat.engines[0].requests.clear()
    texts, reasons, _ = await collected(await chat.create(n=count, stream=True))
    assert [texts[index] for index in range(count)] == by_index(chat)
    assert reasons == dict.fromkeys(range(count), "stop")


async def test_the_same_seed_gives_the_same_and_no_seed_something_else(chat: Chat) -> None:
    same = [(await chat.create(seed=5)).choices[0].message.content for _ in range(2)]
    other = [(await chat.create(seed=6)).choices[0].message.content]
    free = [(await chat.create()).choices[0].message.content for _ in range(2)]
    assert len({*same, *other, *free}) == 4


async def test_a_stream_gives_the_pieces_as_the_engine_does(chat: Chat) -> None:
    texts, reasons, chunks = await collected(await chat.create(stream=True))
    assert texts == {0: text_of(chat.generated()[0])}
    assert reasons == {0: "stop"}
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert pieces == [text for _, text in scripted(chat.generated()[0]) if text]
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant"] + [None] * (len(chunks) - 1)
    assert len({chunk.id for chunk in chunks}) == 1
    assert {(chunk.object, chunk.model, chunk.usage) for chunk in chunks} == {("chat.completion.chunk", "live", None)}
    assert [bool((chunk.model_extra or {}).get("sea")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_every_chunk_of_a_client_that_knows_no_duels_has_a_choice_unless_it_wants_the_usage(chat: Chat) -> None:
    """Many programs print ``chunk.choices[0].delta.content`` of every chunk."""
    _, _, chunks = await collected(await chat.create(stream=True, n=2))
    assert all(chunk.choices for chunk in chunks)
    _, _, chunks = await collected(await chat.create(stream=True, stream_options={"include_usage": True}, n=2))
    assert [bool(chunk.choices) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 14, 19)
    assert chunks[-1].model_extra["sea"] == {"policy_version": 1, "duel": None}


async def test_a_stream_ends_as_openais_do_and_no_proxy_holds_it_back(chat: Chat) -> None:
    headers = {"Authorization": f"Bearer {chat.key}"}
    body = {"model": "live", "messages": HELLO, "stream": True}
    async with httpx.AsyncClient(base_url=chat.url, headers=headers, timeout=60) as client:
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-store"
    lines = answer.text.split("\n\n")
    assert all(line.startswith("data: ") for line in lines[:-1])
    assert lines[-2:] == ["data: [DONE]", ""]


async def test_openais_helper_for_streams_puts_the_answer_together(chat: Chat) -> None:
    async with chat.openai.chat.completions.stream(model="live", messages=HELLO, n=2) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert [choice.message.content for choice in final.choices] == by_index(chat)
    assert [choice.finish_reason for choice in final.choices] == ["stop", "stop"]


async def test_choices_begin_in_their_order_whichever_is_sampled_first() -> None:
    """OpenAI's helper for streams fails where a choice begins before those in front of it."""
    ends = [{"index": index, "finish_reason": "stop"} for index in range(3)]
    answer = {"choices": ends, "usage": {}, "sea": {"policy_version": 1, "duel": None}}

    async def events() -> AsyncIterator[Event]:
        yield Event("text", 0, "first")
        yield Event("done", answer=answer)

    body = ChatIn(model="live", messages=HELLO, n=3, stream=True)
    lines = [line async for line in _lines(body, "live", Event("text", 2, "third"), Reply("id", 0, events()))]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    begun = [choice["index"] for chunk in chunks for choice in chunk["choices"] if "role" in choice["delta"]]
    assert begun == [0, 1, 2]


async def test_an_answer_can_be_sent_back_as_it_came(chat: Chat) -> None:
    answer = await chat.openai.chat.completions.create(model="live", messages=HELLO)
    messages: list[Any] = [*HELLO, answer.choices[0].message, {"role": "user", "content": "and then?"}]
    await chat.openai.chat.completions.create(model="live", messages=messages)
    assert chat.generated()[-1]["messages"][1] == {
        "role": "assistant",
        "content": answer.choices[0].message.content,
    }
    whole = [*HELLO, answer.choices[0].message.model_dump(), {"role": "user", "content": "and then?"}]
    await chat.openai.chat.completions.create(model="live", messages=whole)
    assert chat.generated()[-1]["messages"] == chat.generated()[-2]["messages"]


async def test_an_empty_response_is_a_choice_too(chat: Chat) -> None:
    chat.engines[0].script = lambda body: [(1, "")]
    assert (await chat.create()).choices[0].message.content == ""
    texts, reasons, chunks = await collected(await chat.create(stream=True))
    assert (texts, reasons, chunks[0].choices[0].delta.role) == ({0: ""}, {0: "stop"}, "assistant")


@pytest.mark.parametrize("streams", [False, True])
async def test_a_response_ends_before_a_stop_text_that_comes_in_pieces(chat: Chat, streams: bool) -> None:
    pieces = ["Ri", "ce <", "/en", "d> and more", " of it"]
    chat.engines[0].script = lambda body: [(FIRST_ID + n, piece) for n, piece in enumerate(pieces)] + [(1, "")]
    for stop in ("</end>", ["nowhere", "</end>", "more"]):
        answer = await chat.create(stop=stop, stream=streams)
        if streams:
            texts, reasons, _ = await collected(answer)
        else:
            texts, reasons = ({0: answer.choices[0].message.content}, {0: answer.choices[0].finish_reason})
        assert (texts, reasons) == ({0: "Rice "}, {0: "stop"})
    (row, _) = await chat.rows()
    assert json.loads(row.responses)[0]["text"] == "Rice "
    assert json.loads(row.answer)["choices"][0]["message"]["content"] == "Rice "


async def test_what_was_held_back_for_a_stop_text_comes_in_the_end(chat: Chat) -> None:
    chat.engines[0].script = lambda body: [(FIRST_ID, "a </e"), (1, "")]
    texts, _, _ = await collected(await chat.create(stop="</end>", stream=True))
    assert texts == {0: "a </e"}


async def test_an_engine_is_let_go_of_once_a_stop_text_has_come(chat: Chat) -> None:
    engine = chat.engines[0]
    engine.hold_after = 3
    stop = WORDS[0]
    engine.script = lambda body: [(FIRST_ID, "so "), (FIRST_ID, stop), (FIRST_ID, " x"), (FIRST_ID, " y"), (1, "")]
    assert (await chat.create(stop=stop)).choices[0].message.content == "so "
    await chat.eventually(lambda: engine.left)


async def test_what_only_concerns_the_caller_is_taken_and_ignored(chat: Chat) -> None:
    answer = await chat.create(
        metadata={"a": "b"},
        parallel_tool_calls=True,
        service_tier="auto",
        top_p=1.0,
        presence_penalty=0,
        frequency_penalty=0,
        logit_bias={},
        logprobs=False,
        tools=[],
        response_format={"type": "text"},
        prompt_cache_key="k",
        safety_identifier="s",
        n=None,
        extra_body={"of": [{"somebody": "else"}]},
    )
    assert len(answer.choices) == 1


JAVASCRIPT = {
    "user-agent": "OpenAI/JS 6.49.0",
    "x-stainless-lang": "js",
    "accept-language": "*",
    "sec-fetch-mode": "cors",
}
LANGCHAIN = {"user-agent": "OpenAI/Python 3.57.0", "x-stainless-raw-response": "true", "x-stainless-async": "false"}
OTHERS: list[tuple[dict[str, str], dict[str, Any]]] = [
    (JAVASCRIPT, {}),
    (JAVASCRIPT | {"x-stainless-helper-method": "stream"}, {"stream": True}),
    (LANGCHAIN, {"stream": False}),
    (LANGCHAIN, {"stream": True, "stream_options": {"include_usage": True}}),
]


async def test_other_clients_requests_get_one_choice_though_everybody_is_asked_who_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their requests as they send them; what they make of the answers was tried by hand."""
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch, **EAGER) as chat:
        assert duel_of(await chat.create(duel=True)) is not None
        for headers, more in OTHERS:
            body = json.dumps({"model": "live", "messages": HELLO} | more, separators=(",", ":"))
            answer = await posted(chat, body, {"accept": "application/json"} | headers)
            assert answer.status_code == 200, answer.text
            lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
            parts = [json.loads(line) for line in lines if line != "[DONE]"]
            assert {choice["index"] for part in parts for choice in part["choices"]} == {0}
            assert (lines[-1] == "[DONE]") == more.get("stream", False)
            assert all(part["choices"] for part in parts[:-1])


async def test_the_model_is_listed(chat: Chat) -> None:
    assert [(model.id, model.owned_by) async for model in chat.openai.models.list()] == [("live", "sea-agent")]


# --- errors ----------------------------------------------------------------------------------------------------------


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [TOOL]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"logprobs": True}, "logprobs"),
    ({"top_p": 0.9}, "top_p"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"logit_bias": {"1": 5}}, "logit_bias"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"extra_body": {"top_k": 5}}, "top_k"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content: image_url is not supported"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": "x", "name": "ann"}]}, "messages.0: name is not supported"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "messages"),
    ({"messages": [{"role": "user", "content": "a\x00b"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"temperature": 2.5}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": ""}, "stop"),
    ({"user": ""}, "user"),
    ({"extra_body": {"sea": {"duel": "always"}}}, "sea.duel"),
    ({"extra_body": {"sea": {"duels": "allow"}}}, "sea.duels"),
]


async def posted(chat: Chat, content: str | bytes, more: Mapping[str, str] = MappingProxyType({})) -> httpx.Response:
    """The answer to a body that OpenAI's client for Python would not send."""
    headers = {"Authorization": f"Bearer {chat.key}", "Content-Type": "application/json", **more}
    async with httpx.AsyncClient(base_url=chat.url, headers=headers, timeout=60) as client:
        return await client.post("/v1/chat/completions", content=content)


async def test_what_is_not_supported_is_refused_in_openais_shape(chat: Chat) -> None:
    for more, where in UNSUPPORTED:
        body = {"model": "live", "messages": HELLO} | {name: more[name] for name in more if name != "extra_body"}
        answer = await posted(chat, json.dumps(body | more.get("extra_body", {})))
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), answer.text
        assert answer.json().keys() == {"error"}
        assert error.keys() == {"message", "type", "param", "code"}
        assert where in error["message"]
    assert chat.generated() == []
    assert await chat.rows() == []


async def test_what_json_cannot_say_is_refused(chat: Chat) -> None:
    content = json.dumps({"model": "live", "messages": HELLO, "temperature": 0})
    wrong: list[str | bytes] = [content.replace("0}", f"{value}}}") for value in ("NaN", "Infinity", "1e999")]
    no_text = content.replace("hello", "\udcff").encode(errors="surrogateescape")
    for body in (*wrong, content[:-1], "[]", "", no_text):
        answer = await posted(chat, body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"]
    for deep in (300, 900, 3000, 100_000):
        answer = await posted(chat, content[:-1] + ', "metadata": ' + "[" * deep + "]" * deep + "}")
        assert answer.status_code in (200, 400), answer.text


async def test_errors_are_the_clients_own_exceptions(chat: Chat) -> None:
    nobody = await chat.client("sea_wrong")
    with pytest.raises(openai.AuthenticationError):
        await nobody.chat.completions.create(model="live", messages=HELLO)
    made = await chat.service.admin.post("/v1/keys", json={"name": "reader", "scopes": ["read"]})
    reader = await chat.client(made.json()["key"])
    with pytest.raises(openai.PermissionDeniedError):
        await reader.chat.completions.create(model="live", messages=HELLO)
    with pytest.raises(openai.PermissionDeniedError):
        await reader.models.list()
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        await chat.openai.chat.completions.create(model="gpt", messages=HELLO)
    made = await chat.service.admin.post("/v1/keys", json={"name": "else", "scopes": ["chat"], "runs": ["other"]})
    elsewhere = await chat.client(made.json()["key"])
    with pytest.raises(openai.NotFoundError, match="no model 'live'"):
        await elsewhere.chat.completions.create(model="live", messages=HELLO)
    assert [model async for model in elsewhere.models.list()] == []
    with pytest.raises(openai.BadRequestError, match="tools is not supported") as caught:
        await chat.create(tools=[TOOL])
    assert caught.value.type == "invalid_request_error"
    chat.engines[0].refuse = "the prompt is too long for the policy's context"
    for streams in (False, True):
        with pytest.raises(openai.BadRequestError, match="too long") as caught:
            await chat.create(stream=streams)
        assert caught.value.param == "messages"
    chat.engines[0].refuse, chat.engines[0].answer = None, 503
    for streams in (False, True):
        with pytest.raises(openai.InternalServerError, match="No engine answers") as failed:
            await chat.create(stream=streams)
        assert failed.value.status_code == 503
        assert failed.value.response.headers["retry-after"] == "1"


async def test_a_body_that_is_too_large_is_told_in_openais_shape_and_elsewhere_as_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_pieces(content: bytes) -> AsyncIterator[bytes]:
        for place in range(0, len(content), 500):
            yield content[place : place + 500]

    url = f"sqlite:///{tmp_path / 'small.sqlite'}"
    async with chatting(url, monkeypatch, settings={"body_bytes": 2000}) as chat:
        with pytest.raises(openai.APIStatusError, match="larger than 2,000 bytes") as caught:
            await chat.create("x" * 3000)
        assert (caught.value.status_code, caught.value.type) == (413, "invalid_request_error")
        content = json.dumps({"model": "live", "messages": [{"role": "user", "content": "x" * 3000}]}).encode()
        headers = {"Authorization": f"Bearer {chat.key}", "Content-Type": "application/json"}
        async with httpx.AsyncClient(base_url=f"{chat.url}/v1", headers=headers, timeout=60) as client:
            answers = [await client.post("/chat/completions", content=sent) for sent in (content, in_pieces(content))]
            elsewhere = await client.post("/keys", content=content)
        assert [answer.status_code for answer in answers] == [413, 413]
        assert answers[0].json() == answers[1].json()
        assert set(answers[0].json()["error"]) == {"message", "type", "param", "code"}
        assert (elsewhere.status_code, elsewhere.headers["content-type"]) == (413, "application/problem+json")
        assert chat.generated() == []
        assert await chat.rows() == []


async def test_a_client_that_tries_again_gets_its_answer(chat: Chat) -> None:
    """OpenAI's client sends a request again that was answered with 503."""
    engine = chat.engines[0]
    patient = await chat.client(chat.key, max_retries=2)
    engine.answer = 503
    refused = []

    async def back(response: httpx.Response) -> None:
        refused.append(response.status_code)
        engine.answer = None

    patient._client.event_hooks["response"].append(back)
    answer = await patient.chat.completions.create(model="live", messages=HELLO)
    assert answer.choices[0].message.content
    assert refused == [503, 200]


async def test_a_user_who_writes_too_often_is_refused_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'limited.sqlite'}"
    async with chatting(url, monkeypatch, requests_per_minute=2.0) as chat:
        for _ in range(2):
            await chat.create()
        with pytest.raises(openai.RateLimitError) as caught:
            await chat.create()
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 30
        assert (await chat.create(user="other")).choices
        assert len(chat.generated()) == 3


async def test_without_live_mode_there_is_no_model(sqlite_service: Any) -> None:
    for answer in (
        await sqlite_service.admin.get("/v1/models"),
        await sqlite_service.admin.post("/v1/chat/completions", json={"model": "live", "messages": HELLO}),
    ):
        assert answer.status_code == 404
        assert "no live mode" in answer.json()["error"]["message"]


async def test_a_fault_of_the_service_is_an_error_in_openais_shape_that_tells_nothing(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr("sea_agent.service.chat.flow.answer_out", fail)
    with pytest.raises(openai.InternalServerError) as caught:
        await chat.create()
    assert caught.value.status_code == 500
    assert "42" not in str(caught.value)
    with pytest.raises(openai.APIError) as told:
        await collected(await chat.create(stream=True))
    assert "42" not in str(told.value)
    assert [row.state for row in await chat.rows()] == ["failed", "failed"]
