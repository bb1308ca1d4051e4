"""What the keeper of an engine on a cluster makes of its answers; tests/actors/test_live_on_ray.py keeps real ones."""

import threading
from pathlib import Path
from typing import Any, cast

import pytest
from live_stub import StubEngine

from actors.runtime import LastingRemote
from sea_agent.config import LiveConfig
from sea_agent.errors import RunFailure, Stopped
from sea_agent.live import keeper as keeping
from sea_agent.live.engine_scores import engine_score
from sea_agent.live.keeper import Keeper, KeeperSettings
from sea_agent.live.measuring import NotScored
from sea_agent.service.chat.settings import TOKEN as TOKEN_VARIABLE
from sea_agent.service.chat.settings import LiveSettings

TOKEN = "a secret of the engines"


class Answer:
    def __init__(self, value: Any, *, comes: bool = True) -> None:
        self._value, self._comes = value, comes

    def is_ready(self, seconds: float) -> bool:
        return self._comes

    def result(self) -> Any:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


class Engine:
    """Answers as it is told, in turn; then no more."""

    def __init__(self, *answers: Any) -> None:
        self._answers = [Answer(answer) for answer in answers]

    def call(self, method: str, *args: Any) -> Answer:
        return self._answers.pop(0) if self._answers else Answer(None, comes=False)


def made(*answers: Any) -> LastingRemote:
    return cast(LastingRemote, Engine(*answers))


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    monkeypatch.setattr(keeping, "ANSWER_SECONDS", 0.0)
    settings = KeeperSettings(
        out=tmp_path,
        ray_address="10.0.0.1:6379",
        namespace="sea-agent-live",
        index=1,
        engines=2,
        cpus=1.0,
        gpus=0.5,
        deadline_seconds=60.0,
        engine={"threads": 1},
    )
    return Keeper(settings, TOKEN, threading.Event(), lambda line: None)


def test_only_a_well_engine_of_the_same_making_is_used_again(keeper: Keeper) -> None:
    mark = keeper.settings.mark(TOKEN)
    with StubEngine() as running:
        assert keeper._is_well(made(mark, running.url), mark)
        assert keeper._is_well(made(mark, None), mark), "it still loads"
        assert not keeper._is_well(made("another mark", running.url), mark)
        assert not keeper._is_well(made(mark, RunFailure("the back end broke down")), mark)
        assert not keeper._is_well(made(mark), mark), "it does not answer"
    assert not keeper._is_well(made(mark, running.url), mark), "nobody listens there"


def test_the_mark_tells_settings_and_tokens_apart(keeper: Keeper) -> None:
    settings = keeper.settings
    others = [settings.model_copy(update=one) for one in ({"gpus": 1.0}, {"engine": {"threads": 2}})]
    assert len({settings.mark(TOKEN), settings.mark("another"), *(other.mark(TOKEN) for other in others)}) == 4
    assert settings.mark(TOKEN) == settings.model_copy(update={"deadline_seconds": 1.0}).mark(TOKEN)


def test_where_the_engine_is_is_written_down_until_it_ends(keeper: Keeper) -> None:
    ended = RunFailure("live engine: the back end broke down")
    with pytest.raises(RunFailure, match="broke down"):
        keeper._watch(made(None, "http://10.0.0.2:4000", "http://10.0.0.2:4000", ended))
    assert keeper.settings.url.read_text() == "http://10.0.0.2:4000\n"


def test_an_engine_that_is_never_ready_is_given_up(keeper: Keeper) -> None:
    hurried = Keeper(keeper.settings.model_copy(update={"deadline_seconds": 0.0}), TOKEN, keeper.stopping, keeper.tell)
    with pytest.raises(RunFailure, match="engine-1 was not ready within 0 s"):
        hurried._watch(made(*[None] * 9))
    assert not keeper.settings.url.exists()


def test_an_engine_without_room_is_told_with_what_it_needs(keeper: Keeper) -> None:
    with pytest.raises(RunFailure, match=r"engine-1: 0\.5 GPUs and 1 CPU\. See with `ray status`"):
        keeper._ask(made(), "mark")


def test_who_is_stopped_waits_no_longer(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "ANSWER_SECONDS", 60.0)
    keeper.stopping.set()
    for engine in (made(), made("http://10.0.0.2:4000")):
        with pytest.raises(Stopped):
            keeper._watch(engine)


def test_the_agent_asks_an_engine_that_moved_where_its_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, settings = tmp_path / "engine-0.url", tmp_path / "live.json"
    live = LiveSettings(live=LiveConfig(), engines=(f"file://{file}",), decider="", max_new_tokens=8, temperature=1.0)
    settings.write_text(live.model_dump_json())
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    score, rows = engine_score(settings), [((5, 6), (7,))]
    assert score is not None
    with pytest.raises(NotScored, match=r"engine-0\.url: it is nowhere"):
        score(rows, 1)
    for _ in range(2):
        with StubEngine(TOKEN) as engine:
            file.write_text(engine.url)
            assert score(rows, 1) == [[engine.logprob]]
