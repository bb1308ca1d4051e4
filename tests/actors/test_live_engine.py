"""The HTTP interface of a live engine, over the transformers back end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from live_clients import DEADLINE_SECONDS, TOKEN, Client, Streamed, body_of, gathered, listening, run, sampled, take
from live_stub import StubEngine
from policy_zoo import make_endless_policy
from tiny_policies import by_id, varied_requests
from user_policies import CHAT_TEMPLATE, make_byte_tokenizer, make_tokenizer

import actors.live_engine
from actors.hf_sampler import HfSampler
from actors.live import GrowingText, rendered
from actors.live_engine import EngineSettings, main, serve
from actors.live_hf import HfLive
from sea_agent.config import PolicyConfig, SamplerConfig
from sea_agent.config.live import TOKEN as TOKEN_VARIABLE
from sea_agent.errors import RunFailure, UserError
from sea_agent.pretrained import load_tokenizer

PROMPT = [5, 6, 7]
BODY = {"id": "a", "token_ids": PROMPT, "max_new_tokens": 12, "temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def policy(tiny_policy: Callable[..., PolicyConfig]) -> PolicyConfig:
    return tiny_policy("llama")


@pytest.fixture
def backend(policy: PolicyConfig) -> HfLive:
    return make(policy)


@pytest.fixture
def url(backend: HfLive) -> Iterator[str]:
    with listening(backend) as url:
        yield url
    asyncio.run(backend.close())


def make(policy: PolicyConfig) -> HfLive:
    return HfLive(policy, SamplerConfig(), device="cpu", threads=1, initial=False)


@pytest.fixture(scope="module")
def byte_policy(policy_dir: Callable[[str], Path]) -> PolicyConfig:
    """A policy whose tokens are bytes, in whose random responses most characters are broken."""
    return PolicyConfig(path=str(policy_dir("qwen2")))


def test_streams_are_the_responses_of_the_sampler(url: str, policy: PolicyConfig) -> None:
    tokenizer, requests = load_tokenizer(policy.path), varied_requests(24)
    expected = by_id(HfSampler(policy, device="cpu").sample(requests))
    found = run(url, lambda client: gathered(client, [body_of(one) for one in requests]))
    for one, streamed in zip(requests, found, strict=True):
        assert streamed.prompt["token_ids"] == list(one.prompt.token_ids)
        assert streamed.prompt["text"] == tokenizer.decode(one.prompt.token_ids, skip_special_tokens=True)
        assert tuple(streamed.tokens) == expected[one.id].token_ids
        assert streamed.logprobs == pytest.approx(expected[one.id].logprobs, abs=1e-4)
        assert streamed.text == streamed.last["text"] == expected[one.id].text
        assert streamed.last["versions"] == [0]
        assert streamed.last["finish"] == ("stop" if streamed.tokens[-1] == 1 else "length")
    assert {streamed.last["finish"] for streamed in found} == {"stop", "length"}


def test_the_state_tells_what_is_held(url: str, policy: PolicyConfig) -> None:
    async def work(client: Client) -> dict[str, Any]:
        return await client.state()

    held = run(url, work)
    assert len(held.pop("checksum")) == 32
    assert held == {"version": 0, "backend": "hf", "running": 0, "context": 64, "swaps": 0, "responses": 0}


@pytest.mark.parametrize("token", ["x", "another secret", TOKEN + "x"])
def test_a_wrong_token_is_refused(url: str, token: str) -> None:
    async def work() -> list[int]:
        client = Client(url, token).http
        async with client:
            answers = [
                await client.get("/healthz"),
                await client.get("/state"),
                await client.post("/generate", json=BODY),
                await client.put("/weights", json={"path": "x", "version": 1, "checksum": "x"}),
                await client.post("/score", json={"rows": [], "version": 0}),
                await client.get("/no-such-place"),
            ]
        return [answer.status_code for answer in answers]

    assert asyncio.run(work()) == [200, 401, 401, 401, 401, 401]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": list(range(2, 42)) + [5] * 13}, "has 53 tokens, and a response of up to 12 does not fit"),
        ({"max_new_tokens": 62}, "ask for fewer tokens"),
        ({"token_ids": []}, "has 0 tokens"),
        ({"token_ids": [48]}, "token 48 is none of the policy's 48"),
        ({"stop_after": [99]}, "token 99 is none"),
        ({"stop_after": [5] * 13}, "more than the 12 asked for"),
        ({"messages": [{"role": "user", "content": "w5"}]}, "either messages or token_ids"),
        ({"token_ids": None}, "either messages or token_ids"),
        ({"token_ids": None, "messages": []}, "the prompt is empty"),
        ({"token_ids": None, "messages": [{"role": "user", "content": "w5 " * 60}]}, "has 60 tokens"),
        (
            {"token_ids": None, "messages": [{"role": r, "content": "w5"} for r in ("system", "user")]},
            "no chat template, so it reads the last message alone, and the system message would not reach it",
        ),
        ({"token_ids": None, "messages": [{"role": r, "content": "w5"} for r in ("user", "assistant")]}, "assistant"),
        ({"token_ids": None, "messages": [{"role": "user", "content": "w5", "tool_calls": [1]}]}, "tool_calls"),
        ({"temperature": -1.0}, "temperature: "),
        ({"priority": 2}, "priority: "),
        ({"weights": "initial"}, "does not hold the initial policy"),
        ({"top_p": 0.5}, "top_p: "),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_message(url: str, changes: dict[str, Any], message: str) -> None:
    async def work(client: Client) -> httpx.Response:
        answer = await client.http.post("/generate", json=BODY | changes)
        assert (await client.state())["running"] == 0
        return answer

    answer = run(url, work)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_a_conversation_is_rendered_as_a_prompt_of_a_run_is() -> None:
    tokenizer = make_tokenizer()
    text, ids, last_only = rendered([{"role": "user", "content": "w3 w4"}], tokenizer)
    assert (text, list(ids), last_only) == ("w3 w4", tokenizer("w3 w4").input_ids, True)
    tokenizer.chat_template = CHAT_TEMPLATE + "{% if add_generation_prompt %}w28{% endif %}"
    messages = [{"role": role, "content": f"w{place}"} for place, role in enumerate(("system", "user"))]
    text, ids, last_only = rendered(messages, tokenizer)
    assert (text, last_only) == ("system: w0\nuser: w1", False)
    assert tokenizer.decode(ids).split() == ["w26", "w0", "<end>", "w27", "w1", "<end>", "w28"]
    with pytest.raises(UserError, match="fails on the prompt"):
        rendered([{"role": "tool", "content": "w1"}, *messages], tokenizer)


def test_a_policy_without_a_chat_template_completes_the_last_message_of_a_conversation(url: str) -> None:
    """The same response, and the same prompt told of, whatever was said before: an empty response included."""

    async def work(client: Client) -> list[Streamed]:
        asked = [BODY | {"token_ids": None, "messages": [*before, message("user", "w7 w8")]} for before in befores]
        return await gathered(client, asked)

    def message(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    befores = [
        [],
        [message("user", "w3"), message("assistant", "w5")],
        [message("user", "w4"), message("assistant", "")],
    ]
    alone, *others = run(url, work)
    assert alone.prompt == {"text": "w7 w8", "token_ids": alone.prompt["token_ids"], "last_only": True}
    for other in others:
        assert (other.prompt, other.tokens) == (alone.prompt, alone.tokens)


def test_a_response_goes_on_where_another_engine_stopped(byte_policy: PolicyConfig) -> None:
    async def work(client: Client) -> list[Streamed]:
        bodies = [BODY | {"stop_after": whole.tokens[:place]} for place in range(len(whole.tokens) + 1)]
        return await gathered(client, bodies)

    with listening(make(byte_policy)) as first:
        whole = run(first, lambda client: client.generate(**BODY))
    assert len(whole.tokens) == 12
    before = GrowingText(load_tokenizer(byte_policy.path))
    with listening(make(byte_policy)) as second:
        for place, rest in enumerate(run(second, work)):
            assert rest.tokens == whole.tokens[place:]
            assert rest.logprobs == pytest.approx(whole.logprobs[place:], abs=1e-4)
            assert rest.last["text"] == whole.last["text"]
            assert rest.last["finish"] == whole.last["finish"]
            if rest.tokens:
                assert before.whole + rest.text == whole.text
                before.add(rest.tokens[:1])


def test_another_seed_does_not_go_on_as_the_response_did(url: str) -> None:
    async def work(client: Client) -> list[Streamed]:
        first = await client.generate(**BODY)
        return [first, *await gathered(client, [BODY | {"stop_after": first.tokens[:2], "seed": 4}])]

    first, other = run(url, work)
    assert other.tokens != first.tokens[2:]


def test_the_stub_for_other_tests_speaks_as_an_engine_does(url: str) -> None:
    chat = {"token_ids": None, "messages": [{"role": "user", "content": "w5"}]}
    asked = [
        ("GET", "/healthz", None),
        ("GET", "/state", None),
        ("POST", "/generate", BODY),
        ("POST", "/generate", {key: value for key, value in (BODY | chat).items() if value is not None}),
        ("POST", "/generate", BODY | {"stop_after": [10, 11]}),
        ("POST", "/generate", BODY | {"token_ids": []}),
        ("POST", "/score", {"rows": [[[5], [6, 7]]], "version": 0}),
        ("POST", "/score", {"rows": [[[5], [6, 7]]], "version": 9}),
        ("PUT", "/weights", {"path": "/none", "version": 1, "checksum": "x"}),
    ]

    async def work(client: Client) -> list[Any]:
        return [shape(await client.http.request(method, path, json=body)) for method, path, body in asked]

    with StubEngine(TOKEN, version=0) as stub:
        stub.refuse_weights = True
        assert run(stub.url, work) == run(url, work)


def shape(answer: httpx.Response) -> tuple[int, set[tuple[str, ...]]]:
    """The status, and the keys of each kind of line with the types of their values."""
    lines = [json.loads(line) for line in answer.text.splitlines()]
    return answer.status_code, {
        tuple(f"{key}: {type(value).__name__}" for key, value in sorted(line.items())) for line in lines
    }


# --- texts -----------------------------------------------------------------------------------------------------------


def test_texts_with_characters_of_many_bytes_come_whole(byte_policy: PolicyConfig) -> None:
    bodies = [BODY | {"id": str(seed), "seed": seed, "max_new_tokens": 60, "temperature": 2.0} for seed in range(12)]
    expected = by_id(HfSampler(byte_policy, device="cpu").sample([sampled(body) for body in bodies]))
    with listening(make(byte_policy)) as url:
        found = run(url, lambda client: gathered(client, bodies))
    for body, streamed in zip(bodies, found, strict=True):
        assert streamed.text == streamed.last["text"] == expected[body["id"]].text


@pytest.mark.parametrize("text", ["plain", "für naïve Tage", "米飯 冷凍 🍚!", "👩‍👩‍👧 é"])
def test_no_character_is_given_in_parts(text: str) -> None:
    tokenizer = make_byte_tokenizer()
    tokens = tokenizer(text).input_ids
    growing = GrowingText(tokenizer)
    deltas = [growing.add([token]) for token in tokens]
    assert "".join(deltas) + growing.finish() == growing.whole == text
    assert not any("\ufffd" in delta for delta in deltas)
    naive = "".join(tokenizer.decode([token]) for token in tokens)
    assert (naive == text) == text.isascii(), "the check sees characters in parts"
    for place in range(len(tokens)):
        later = GrowingText(tokenizer, tokens[:place])
        assert "".join(deltas[:place]) == later.whole
        assert later.whole + later.add(tokens[place:]) + later.finish() == text


def test_a_character_that_never_becomes_whole_is_shown_at_the_end() -> None:
    tokenizer = make_byte_tokenizer()
    tokens = tokenizer("a🍚").input_ids[:-1]
    growing = GrowingText(tokenizer)
    assert growing.add(tokens) == "a"
    assert "a" + growing.finish() == tokenizer.decode(tokens)


# --- streams that end otherwise --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> PolicyConfig:
    """A policy that never ends a response."""
    return PolicyConfig(path=str(make_endless_policy(tmp_path_factory.mktemp("endless"))))


ENDLESS = BODY | {"max_new_tokens": 90_000}


def test_a_client_that_leaves_ends_its_response(endless: PolicyConfig) -> None:
    async def work(client: Client) -> int:
        lines = client.lines(**ENDLESS)
        streamed = Streamed()
        while len(streamed.tokens) < 3:
            take(await anext(lines), streamed)
        assert (await client.state())["running"] == 1
        await lines.aclose()
        await client.until("running", 0)
        return len(streamed.tokens)

    with listening(make(endless)) as url:
        assert run(url, work) < 1000


def test_a_stream_that_fails_is_not_taken_for_a_whole_one(url: str, backend: HfLive) -> None:
    with torch.no_grad():
        backend._live._model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(httpx.RemoteProtocolError):
        run(url, lambda client: client.generate(**BODY))


@pytest.mark.dear  # a process that loads torch
def test_a_killed_engine_ends_its_streams_at_once(endless: PolicyConfig, tmp_path: Path) -> None:
    settings = tmp_path / "engine.json"
    settings.write_text(json.dumps({"policy": {"path": endless.path}, "port": 0}))
    process = subprocess.Popen(
        [sys.executable, "-m", "actors.live_engine", str(settings)],
        env=os.environ | {TOKEN_VARIABLE: TOKEN, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("Ready: http://127.0.0.1:"), ready

        async def work(client: Client) -> list[Any]:
            received = [0] * 4

            async def stream(number: int) -> None:
                async for line in client.lines(**ENDLESS | {"id": str(number), "seed": number}):
                    received[number] += "version" in line
                    if min(received) >= 3 and process.poll() is None:
                        process.send_signal(signal.SIGKILL)

            return list(await asyncio.gather(*map(stream, range(4)), return_exceptions=True))

        ended = run(ready.split()[1].removesuffix("/state"), work)
        # Broken off, not timed out, and not ended as if this was all.
        assert all(isinstance(one, httpx.ReadError | httpx.RemoteProtocolError) for one in ended), ended
        assert process.wait(DEADLINE_SECONDS) == -signal.SIGKILL
    finally:
        process.kill()


def test_an_engine_whose_back_end_breaks_down_ends(
    backend: HfLive, monkeypatch: pytest.MonkeyPatch, policy: PolicyConfig
) -> None:
    monkeypatch.setattr(actors.live_engine, "make_backend", lambda settings: backend)
    urls: list[str] = []

    async def whole() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            engine = asyncio.create_task(serve(EngineSettings(policy=policy, port=0), TOKEN, urls.append))
            while not urls:
                await asyncio.sleep(0)
            client = Client(urls[0].split()[1].removesuffix("/state"))
            async with client.http:
                assert (await client.http.get("/healthz")).status_code == 200
                backend.failure = RuntimeError("no memory left")
                assert (await client.http.get("/healthz")).status_code == 503
            await engine

    with pytest.raises(RunFailure, match=r"broke down .*no memory left"):
        asyncio.run(whole())


def test_bad_settings_are_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def outcome(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["live_engine", *arguments])
        assert main() == 2
        return capsys.readouterr().err

    bad = tmp_path / "bad.json"
    bad.write_text('{"policy": {"path": "x"}, "colour": 3}')
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert f"{TOKEN_VARIABLE} is not set" in outcome(str(bad))
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert "usage" in outcome()
    assert "bad.json: not the settings of a live engine" in outcome(str(bad))
    assert "none.json: not the settings" in outcome(str(tmp_path / "none.json"))
