"""The first token through the gateway: what is timed is a text of the response, and what a request costs is seen."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from service.chat_service import EAGER, chatting
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks import live_latency
from benchmarks.live_latency import TEXT_OF_ENGINE, compare, deepened, markdown, turn, ways
from sea_agent.worlds import resolve


def test_ratios_are_those_within_turns() -> None:
    """The machine gets slower by half from turn to turn, and the gateway takes twice as long as the engine."""
    bare = [list(np.linspace(0.01, 0.02, 48) * 1.5**number) for number in range(6)]
    found = compare({"engine": bare, "plain": [[2 * wait for wait in part] for part in bare]})
    assert found["plain"]["p50_ratio"] == pytest.approx([2.0] * 3)
    assert found["plain"]["p95_ratio"] == pytest.approx([2.0] * 3)
    assert found["plain"]["p50_later_ms"][0] == pytest.approx(15 * np.mean([1.5**number for number in range(6)]))
    assert "2.00 [2.00, 2.00]" in markdown({"layers": {"3": {"1": found}}})


def test_a_prompt_and_an_empty_piece_are_no_text_of_the_engine() -> None:
    prompt = b'5a\r\n{"prompt": {"text": "hello", "token_ids": [1]}}\n\r\n'
    empty = b'5a\r\n{"text": "", "token_ids": [3], "logprobs": [-1.0], "version": 0}\n\r\n'
    assert TEXT_OF_ENGINE.search(prompt + empty) is None
    assert TEXT_OF_ENGINE.search(prompt + empty + empty.replace(b'""', b'" so"')) is not None


def test_a_deeper_policy_says_the_same(tmp_path: Path) -> None:
    policy = Path(resolve("world://lexicon/policy"))
    tokens = torch.tensor([[2, 5, 9, 11, 30]])
    with torch.no_grad():
        own, deep = (
            AutoModelForCausalLM.from_pretrained(path)(tokens).logits
            for path in (policy, deepened(policy, 7, tmp_path / "deep"))
        )
    assert torch.equal(own, deep)
    assert AutoConfig.from_pretrained(tmp_path / "deep").num_hidden_layers == 7


@pytest.mark.parametrize("asked", [False, True])
def test_an_unasked_request_costs_one_sample_and_an_asked_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    monkeypatch.setattr(live_latency, "REQUESTS", 6)
    nobody = EAGER | {"ask_share": 0.0, "considered_share": 0.0}

    async def go() -> dict[str, int]:
        live: dict[str, Any] = EAGER if asked else nobody
        async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch, **live) as chat:
            [port] = {int(chat.url.rpartition(":")[2])}
            own = int(chat.engines[0].url.rpartition(":")[2])
            cost = {}
            for name, way in ways((own, port), "secret", chat.key).items():
                before = len(chat.generated())
                waits = await turn(way, 2, ["hello", "well"], 100 * len(cost))
                assert len(waits) == 6
                assert min(waits) > 0
                cost[name] = len(chat.generated()) - before
            return cost

    cost = asyncio.run(go())
    assert (cost["engine"], cost["plain"]) == (6, 6)
    assert (cost["allowed"] == 6) == (not asked)
