"""What tests of the language model judge share: a server, an oracle that asks it, and short waits."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from judge_server import Judge, JudgeServer
from judge_tools import Clock, MakeJudge

from oracle import llm_endpoint, llm_judge, make_oracle
from oracle.llm_judge import LlmJudgeOracle
from sea_agent.config import LlmJudgeOracleConfig


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call gives up a request after two attempts, however little time they took."""
    monkeypatch.setattr(llm_endpoint, "_is_late", lambda end, state: state.attempt_number == 2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The oracle's clock; limits of single requests are real."""
    made = Clock()
    for module in (llm_endpoint, llm_judge):
        monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(llm_endpoint, "asyncio", SimpleNamespace(sleep=made.sleep, timeout=asyncio.timeout))
    return made


@pytest.fixture
def judge(server: JudgeServer) -> Judge:
    return server.judge


@pytest.fixture
def oracle(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> MakeJudge:
    """``oracle(**settings)`` asks the server, without a key."""
    monkeypatch.delenv(llm_endpoint.KEY, raising=False)
    monkeypatch.setattr(llm_endpoint, "FIRST_PAUSE", 0.01)

    def make(**settings: Any) -> LlmJudgeOracle:
        config = LlmJudgeOracleConfig(**{"kind": "llm_judge", "url": server.url, "model": "m"} | settings)
        made = make_oracle(config, seed=0, device="cpu")
        assert isinstance(made, LlmJudgeOracle)
        return made

    return make
