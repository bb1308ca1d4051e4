"""The process that decides: whole snapshots only, one for each decision, and only for who has the token."""

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from fastapi.testclient import TestClient
from run_parts import selector as make_selector

from sea_agent.config import CheckpointConfig, RunConfig
from sea_agent.config.files import load_config, parse_config, to_yaml
from sea_agent.errors import UserError
from sea_agent.features import Features
from sea_agent.live import decider as decider_module
from sea_agent.live.decider import SNAPSHOTS, Decider, DeciderSettings, Question, load, make_app, polling, read_settings
from sea_agent.live.snapshots import Snapshots
from sea_agent.loop.selector import Selector
from sea_agent.persistence.checkpoint import Checkpoints
from sea_agent.service.chat.settings import TOKEN
from sea_agent.types import Candidates, Outcome, Prompt, Response, Verdict

SECRET = "a-secret-of-the-live-mode"
BEARER = {"Authorization": f"Bearer {SECRET}"}
TEXTS = ("w1", "w2 w3", "w4 w5 w6", "w7 w8", "w9")


def tokens(text: str) -> list[int]:
    return [int(word[1:]) + 3 for word in text.split()]


def question(key: str = "q", texts: tuple[str, ...] = TEXTS, **more: Any) -> dict[str, Any]:
    rows = [
        {"id": f"r{place}", "text": text, "token_ids": tokens(text), "logprobs": [-1.0], "policy_version": 3}
        for place, text in enumerate(texts)
    ]
    prompt = {"text": "w1 w2", "token_ids": [4, 5], "messages": [{"role": "user", "content": "w1 w2"}]}
    return {"id": key, "prompt": prompt, "responses": rows} | more


@pytest.fixture
def settings(policy_dir: Callable[[str], Path], tmp_path: Path) -> DeciderSettings:
    config = parse_config(
        {
            "policy": {"path": str(policy_dir("llama"))},
            "prompts": {"path": "unused.jsonl"},
            "posterior": {"family": "laplace", "members": 8},
            "selection": {"rule": "sea_ee"},
            "oracle": {"kind": "world"},
            "budget": {"oracle_queries": 1},
        },
        where="test",
    )
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    return DeciderSettings(config=tmp_path / "config.yaml", out=tmp_path, port=0)


@pytest.fixture
def agent(settings: DeciderSettings) -> Selector:
    return make_selector(config_of(settings))


def config_of(settings: DeciderSettings) -> RunConfig:
    return load_config(str(settings.config))


def group(name: str, *texts: str) -> Candidates:
    return Candidates(
        Prompt(name, "w1 w2", (4, 5)),
        tuple(Response(f"{name}-{text}", name, text, tuple(tokens(text)), (), 0) for text in texts),
    )


def teach(selector: Selector, number: int, outcome: Outcome = Outcome.FIRST) -> None:
    """A round of answers: the first text is always preferred, or never."""
    groups = [group(f"{number}-{place}", "w1", "w2 w3 w4") for place in range(20)]
    duels = selector.select(groups, number, 0, 100)
    said = [outcome if duel.first.text == "w1" else outcome.swap() for duel in duels]
    selector.update([(duel, Verdict(duel.id, one, "u", 0.0)) for duel, one in zip(duels, said, strict=True)], number)


def write(settings: DeciderSettings, selector: Selector, number: int) -> Path:
    with Checkpoints(settings.out / SNAPSHOTS, CheckpointConfig(keep=9), {}) as checkpoints:
        checkpoints.save(number, {"selector": selector.state()}, None)
    return settings.out / SNAPSHOTS / f"round-{number:06d}"


def client_of(snapshots: Snapshots) -> TestClient:
    return TestClient(make_app(Decider(snapshots), SECRET))


def test_before_the_first_snapshot_it_decides_passively(settings: DeciderSettings) -> None:
    client = client_of(load(settings))
    answer = client.post("/decide", json=question(), headers=BEARER)
    assert answer.status_code == 200
    assert answer.json()["pair"] == [0, 1]
    assert answer.json()["belief"] is None
    assert client.get("/state", headers=BEARER).json() == {
        "snapshot": None,
        "posterior_version": 0,
        "trust": 0.0,
        "waiting": 0,
    }


def test_it_decides_as_the_agent_would(settings: DeciderSettings, agent: Selector) -> None:
    for number in range(1, 5):
        teach(agent, number)
    write(settings, agent, 4)
    client = client_of(load(settings))
    prompt, responses = Question.model_validate(question("one")).parts()
    for key in map(str, range(10)):
        found = client.post("/decide", json=question(key), headers=BEARER).json()
        mine = asdict(decider_module.decide(agent, prompt, responses, key))
        assert found == json.loads(json.dumps(mine))
        assert found["posterior_version"] == 4
    shown = client.post("/decide", json=question("one", shown=3), headers=BEARER).json()
    assert shown["pair"] is None or shown["pair"][0] == 3


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {SECRET}x"}, {"Authorization": SECRET}])
@pytest.mark.parametrize(("method", "path"), [("POST", "/decide"), ("GET", "/state")])
def test_only_who_has_the_token_is_answered(
    settings: DeciderSettings, headers: dict[str, str], method: str, path: str
) -> None:
    client = client_of(load(settings))
    assert client.request(method, path, json=question(), headers=headers).status_code == 401
    assert client.request(method, path, json={"nonsense": 1}, headers=headers).status_code == 401
    assert client.request(method, path, json=question(), headers=BEARER).status_code == 200, "the control"
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        question(shown=5),
        question(shown=-1),
        question(texts=()),
        question() | {"id": ""},
        question() | {"prompt": {"text": "w1"}},
        question() | {"responses": [{"id": "a", "text": "", "token_ids": []}]},
    ],
)
def test_a_question_that_makes_no_sense_is_refused(settings: DeciderSettings, wrong: dict[str, Any]) -> None:
    assert client_of(load(settings)).post("/decide", json=wrong, headers=BEARER).status_code == 422


def damage_tensors(path: Path) -> None:
    data = bytearray((path / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "tensors.safetensors").write_bytes(data)


def cut_state(path: Path) -> None:
    text = (path / "state.json").read_text()
    (path / "state.json").write_text(text[: len(text) // 2])


def lose_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


DAMAGES = [damage_tensors, cut_state, lose_manifest]


@pytest.mark.parametrize("damage", [*DAMAGES, None])
def test_a_damaged_snapshot_is_passed_over_and_the_old_one_stays(
    settings: DeciderSettings,
    agent: Selector,
    damage: Callable[[Path], None] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without damage, the control, the same snapshot is taken over and nothing is told."""
    teach(agent, 1)
    write(settings, agent, 1)
    snapshots = load(settings)
    before = snapshots.held
    teach(agent, 2)
    path = write(settings, agent, 2)
    if damage is not None:
        damage(path)
    with caplog.at_level(logging.WARNING):
        assert snapshots.refresh() == (damage is None)
    assert snapshots.held.name == ("round-000001" if damage else "round-000002")
    assert (snapshots.held is before) == (damage is not None)
    assert [record.levelname for record in caplog.records] == (["WARNING"] if damage else [])
    assert damage is None or ("round-000002" in caplog.text and "round-000001" in caplog.text)
    assert not snapshots.refresh()
    assert len(caplog.records) == (damage is not None), "it is told once"
    assert snapshots.held.selector.posterior_version == (1 if damage else 2)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_decider_that_starts_takes_the_newest_whole_snapshot(
    settings: DeciderSettings, agent: Selector, damage: Callable[[Path], None]
) -> None:
    for number in (1, 2, 3):
        teach(agent, number)
        path = write(settings, agent, number)
    damage(path)
    assert load(settings).held.name == "round-000002"


def test_a_snapshot_that_is_mended_is_taken_over(settings: DeciderSettings, agent: Selector) -> None:
    teach(agent, 1)
    path = write(settings, agent, 1)
    whole = path.with_name("aside")
    shutil.copytree(path, whole)
    damage_tensors(path)
    snapshots = load(settings)
    assert snapshots.held is None
    shutil.rmtree(path)
    shutil.copytree(whole, path)
    assert snapshots.refresh()
    assert snapshots.held.name == "round-000001"


def test_a_snapshot_that_is_being_written_is_not_looked_at(
    settings: DeciderSettings, agent: Selector, caplog: pytest.LogCaptureFixture
) -> None:
    teach(agent, 1)
    path = write(settings, agent, 1)
    path.rename(path.with_name(path.name + ".part"))
    assert load(settings).held is None
    assert caplog.text == ""


def test_what_was_written_last_is_the_newest_also_of_an_earlier_round(
    settings: DeciderSettings, agent: Selector
) -> None:
    """An agent that went back to a checkpoint counts its rounds from there."""
    teach(agent, 1)
    early = agent.state()
    teach(agent, 2)
    write(settings, agent, 9)
    snapshots = load(settings)
    agent.load_state(early)
    write(settings, agent, 3)
    assert snapshots.refresh()
    assert snapshots.held.name == "round-000003"
    assert not snapshots.refresh()


def test_a_snapshot_of_another_posterior_is_passed_over(
    settings: DeciderSettings, agent: Selector, caplog: pytest.LogCaptureFixture
) -> None:
    teach(agent, 1)
    write(settings, agent, 1)
    snapshots = load(settings)
    with Checkpoints(settings.out / SNAPSHOTS, CheckpointConfig(keep=9), {}) as checkpoints:
        state = agent.state()
        state["posterior"]["scales"] = state["posterior"]["scales"].repeat(2)
        checkpoints.save(2, {"selector": state}, None)
    with Checkpoints(settings.out / SNAPSHOTS, CheckpointConfig(keep=9), {"posterior.members": 9}) as checkpoints:
        checkpoints.save(3, {"selector": agent.state()}, None)
    assert not snapshots.refresh()
    assert snapshots.held.name == "round-000001"
    assert "scales" in caplog.text
    assert "members" in caplog.text


def answers_during(load_next: Callable[[], None], ask: Callable[[int], Any]) -> list[Any]:
    """What is asked in one thread while another loads."""
    ended = threading.Event()
    found: list[Any] = []

    def keep_asking() -> None:
        number = 0
        while not ended.is_set() or number < 40:
            found.append((number, ask(number)))
            number += 1

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        for _ in range(6):
            load_next()
    finally:
        ended.set()
        asking.join(60)
    return found


def test_a_decision_is_by_one_snapshot_also_while_another_is_taken_over(
    settings: DeciderSettings, agent: Selector
) -> None:
    states, pure = [], []
    for number, outcome in ((1, Outcome.FIRST), (2, Outcome.SECOND)):
        fresh = make_selector(config_of(settings))
        for round_ in range(1, 4 * number):
            teach(fresh, round_, outcome)
        states.append(fresh)
    write(settings, states[0], 1)
    snapshots = load(settings)
    decider = Decider(snapshots)
    for state in states:
        pure.append({key: decider_module.decide(state, *of(key), str(key)) for key in range(5)})
    assert pure[0] != pure[1]
    turn = iter(range(2, 99))

    def swap() -> None:
        number = next(turn)
        write(settings, states[(number + 1) % 2], number)
        assert snapshots.refresh()

    found = answers_during(swap, lambda number: decider.answer(Question.model_validate(question(str(number % 5)))))
    versions = {decision.posterior_version for _, decision in found}
    assert versions == {states[0].posterior_version, states[1].posterior_version}
    for number, decision in found:
        assert decision == pure[decision.posterior_version != states[0].posterior_version][number % 5]


def of(key: int) -> tuple[Prompt, list[Response]]:
    return Question.model_validate(question(str(key))).parts()


def test_a_selector_that_shares_its_scale_with_the_next_would_mix_them(
    settings: DeciderSettings, agent: Selector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: snapshots that share their features change when the next is loaded."""
    teach(agent, 1)
    write(settings, agent, 1)
    other = make_selector(config_of(settings))
    other.begin([group("wide", "w9 w9", "w8 w7 w6 w5 w4", "w2"), group("wider", "w3", "w1 w1 w1")])
    teach(other, 1)

    def beliefs(twins: bool) -> tuple[Any, Any]:
        if not twins:
            monkeypatch.setattr(Features, "twin", lambda self: self)
        shutil.rmtree(settings.out / SNAPSHOTS)
        write(settings, agent, 1)
        snapshots = load(settings)
        first = snapshots.held.selector
        before = decider_module.decide(first, *of(0), "0")
        write(settings, other, 2)
        assert snapshots.refresh()
        return before, decider_module.decide(first, *of(0), "0")

    before, after = beliefs(twins=True)
    assert before == after
    before, after = beliefs(twins=False)
    assert before != after


def test_too_many_waiting_questions_are_refused_at_once(settings: DeciderSettings) -> None:
    decider = Decider(load(settings))
    held = threading.Event()
    decider.answer = lambda question: held.wait(30)  # type: ignore[method-assign]

    async def ask() -> list[Any]:
        asked = Question.model_validate(question())
        waiting = [asyncio.create_task(decider.decide(asked)) for _ in range(decider_module.MOST_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(decider_module.Problem) as refused:
            await decider.decide(asked)
        assert refused.value.status_code == 503
        held.set()
        return await asyncio.gather(*waiting)

    assert asyncio.run(ask()) == [True] * decider_module.MOST_WAITING
    assert decider.waiting == 0


def test_polling_survives_whatever_a_snapshot_does(settings: DeciderSettings) -> None:
    class Odd:
        calls = 0

        def refresh(self) -> bool:
            self.calls += 1
            looked.set()
            if self.calls == 1:
                raise RuntimeError("odd")
            again.set()
            return False

    looked, again, odd = threading.Event(), threading.Event(), Odd()

    async def poll() -> None:
        async with polling(odd, 0.0):  # type: ignore[arg-type]
            assert await asyncio.to_thread(looked.wait, 30)
            assert await asyncio.to_thread(again.wait, 30)

    asyncio.run(poll())


def test_snapshots_are_all_read_in_one_thread_however_many_there_are(settings: DeciderSettings) -> None:
    """Each thread keeps a heap of the size of what it once read."""
    enough = threading.Event()

    class Noted:
        threads: ClassVar[list[int]] = []

        def refresh(self) -> bool:
            self.threads.append(threading.get_ident())
            if len(self.threads) == 8:
                enough.set()
            return False

    async def poll() -> None:
        async with polling(Noted(), 0.0):  # type: ignore[arg-type]
            while not enough.is_set():  # others, which come and go
                await asyncio.gather(*(asyncio.to_thread(enough.wait, 0.001) for _ in range(4)))

    asyncio.run(asyncio.wait_for(poll(), 60))
    assert len(set(Noted.threads)) == 1


def test_settings_that_are_none_are_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"config": "a", "out": "b"}', '{"config": "a", "out": "b", "port": 1, "more": 2}'):
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(UserError, match="not the settings of a decider"):
            read_settings(tmp_path / "settings.json")


def test_the_process_starts_serves_and_takes_over_snapshots(settings: DeciderSettings, agent: Selector) -> None:
    file = settings.out / "decider.json"
    file.write_text(settings.model_dump_json())
    command = [sys.executable, "-m", "sea_agent.live.decider", str(file)]
    refused = subprocess.run(
        command, env={k: v for k, v in os.environ.items() if k != TOKEN}, capture_output=True, text=True, timeout=120
    )
    assert (refused.returncode, TOKEN in refused.stderr, "Traceback" in refused.stderr) == (2, True, False)
    process = subprocess.Popen(
        command, env=os.environ | {TOKEN: SECRET}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        ready = process.stdout.readline()
        assert ready.startswith("Ready: http://127.0.0.1:")
        url = ready.split()[1]
        assert httpx.get(f"{url}/healthz", timeout=30).status_code == 200
        assert httpx.post(f"{url}/decide", json=question(), timeout=30).status_code == 401
        assert httpx.post(f"{url}/decide", json=question(), headers=BEARER, timeout=30).json()["belief"] is None
        teach(agent, 1)
        write(settings, agent, 1)
        for line in process.stderr:
            if "round-000001" in line:
                break
        state = httpx.get(f"{url}/state", headers=BEARER, timeout=30).json()
        assert (state["snapshot"], state["posterior_version"]) == ("round-000001", 1)
        assert httpx.post(f"{url}/decide", json=question(), headers=BEARER, timeout=30).json()["belief"] is not None
        process.terminate()
        assert process.wait(30) in (0, -15)
    finally:
        process.kill()
        process.communicate()
