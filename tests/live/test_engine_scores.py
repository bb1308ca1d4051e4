"""What engines say of log-probabilities, or why they say nothing."""

from pathlib import Path

import pytest
from live_stub import StubEngine

from sea_agent.config import LiveConfig
from sea_agent.live.engine_scores import engine_score
from sea_agent.live.measuring import NotScored, Score
from sea_agent.service.chat.settings import TOKEN, LiveSettings

ROWS = [((1, 2), (3, 4)), ((1,), (5,))]


def score_of(folder: Path, *engines: StubEngine) -> Score:
    urls = tuple(engine.url for engine in engines)
    settings = LiveSettings(live=LiveConfig(), engines=urls, decider=urls[0], max_new_tokens=8, temperature=1.0)
    (folder / "live.json").write_text(settings.model_dump_json())
    found = engine_score(folder / "live.json")
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "secret")


def test_the_first_engine_that_can_tell_does(tmp_path: Path) -> None:
    with StubEngine("secret") as refusing, StubEngine("secret") as telling:
        refusing.answer = 503
        assert score_of(tmp_path, refusing, telling)(ROWS, 1) == [[-1.0, -1.0], [-1.0]]


def test_where_none_can_each_says_why(tmp_path: Path) -> None:
    with StubEngine("secret") as refusing, StubEngine("secret") as gone:
        score = score_of(tmp_path, refusing, gone)
        refusing.answer = 409
        gone.stop()
        with pytest.raises(NotScored) as why:
            score(ROWS, 1)
    refused, unreachable = str(why.value).split("; ")
    assert refused.startswith(f"{refusing.url}: it answered 409: ")
    assert unreachable.startswith(f"{gone.url}: ")


def test_without_engines_nobody_is_asked(tmp_path: Path) -> None:
    assert engine_score(tmp_path / "live.json") is None
