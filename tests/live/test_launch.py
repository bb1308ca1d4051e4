"""How live mode is begun, gone on with, and stopped while it starts; its parts are not run."""

import signal
from pathlib import Path
from typing import Any

import pytest

from actors.live_engine import read_settings as engine_settings
from sea_agent.config.files import to_yaml
from sea_agent.errors import UserError
from sea_agent.live import launch
from sea_agent.live.decider import read_settings as decider_settings
from sea_agent.live.launch import CONFIG, LOGS, LOOPBACK, Launch, Place, live_config
from sea_agent.live.supervisor import Part, Supervisor
from sea_agent.persistence.directory import RunDirectory

BEGUN = "live"  # a preset


def begin(out: Path, *overrides: str) -> None:
    """Leave what live mode leaves when it begins."""
    out.mkdir()
    (out / CONFIG).write_text(to_yaml(live_config(BEGUN, out, overrides, resume=False)))
    (out / LOGS).mkdir()


# --- begin, or go on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "resume", "there", "refusal"),
    [
        (BEGUN, False, False, None),
        (BEGUN, False, True, "holds live mode already; go on with it: .* --resume"),
        (None, True, True, None),
        (None, True, False, "holds no live mode .* give a configuration to begin one"),
        (BEGUN, True, False, None),
        (BEGUN, True, True, None),
        (None, False, True, "give a configuration, or --resume"),
    ],
)
def test_one_command_begins_or_goes_on_and_the_others_say_what_they_do(
    source: str | None, resume: bool, there: bool, refusal: str | None, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if there:
        begin(out)
    if refusal is None:
        assert live_config(source, out, (), resume).oracle.kind == "live"
    else:
        with pytest.raises(UserError, match=refusal):
            live_config(source, out, (), resume)


def test_what_goes_on_has_the_settings_of_live_mode_that_are_given_now(tmp_path: Path) -> None:
    begin(tmp_path / "out", "live.engines=1")
    config = live_config(BEGUN, tmp_path / "out", ["live.engines=2"], resume=True)
    assert config.live is not None
    assert config.live.engines == 2


@pytest.mark.parametrize("source", [BEGUN, None])
@pytest.mark.parametrize("setting", ["learner.beta=0.7", "live.run=other"])
def test_what_holds_something_else_is_refused_before_anything_is_written(
    source: str | None, setting: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    begin(out)
    with pytest.raises(UserError, match=r"holds another run \((learner\.beta|oracle\.run)"):
        live_config(source, out, [setting], resume=True)


def test_a_directory_with_other_files_is_not_begun_in(tmp_path: Path) -> None:
    (tmp_path / "letter").touch()
    with pytest.raises(UserError, match="not an empty directory"):
        live_config(BEGUN, tmp_path, (), resume=True)


# --- how it starts ---------------------------------------------------------------------------------------------------


class Parts(Supervisor):
    """Starts nothing; it is asked to stop while ``stopping`` starts."""

    started: list[Part]
    stopping: str | None

    def start(self, *parts: Part) -> bool:
        self.started.extend(parts)
        return self.stopping not in {part.name for part in parts}

    def watch(self) -> None:
        """It is asked to stop at once."""


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> type[Parts]:
    """Who starts parts in place of the supervisor; keys are made by nobody."""
    found = type("Parts", (Parts,), {"started": [], "stopping": None})
    monkeypatch.setattr(launch, "Supervisor", found)
    monkeypatch.setattr(launch, "_new_key", lambda url, admin, name, scope, run: f"the key of {name}")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.delenv("SEA_AGENT_ADMIN_KEY", raising=False)
    return found


def launched(out: Path, told: list[str], **place: Any) -> None:
    Launch(live_config(BEGUN, out, (), resume=False), Place(out, **place), told.append, users=1).run()


def test_keys_are_given_to_those_whose_they_are(parts: type[Parts], tmp_path: Path) -> None:
    launched(tmp_path / "out", [], root_path="/assistant", proxies=("10.0.0.0/8", "192.0.2.1/32"))
    environments = {part.name: dict(part.environment) for part in parts.started}
    assert environments == {
        "engine-0": {},
        "decider": {},
        "gateway": {},
        "agent": {"SEA_AGENT_KEY": "the key of live agent"},
        "users": {"SEA_AGENT_CHAT_KEY": "the key of simulated users"},
    }
    (gateway,) = [part for part in parts.started if part.name == "gateway"]
    assert gateway.arguments[-6:-1] == [
        "--root-path",
        "/assistant",
        "--proxy=10.0.0.0/8",
        "--proxy=192.0.2.1/32",
        "--live",
    ]


def test_engines_and_decider_are_reached_from_their_own_machine_alone(parts: type[Parts], tmp_path: Path) -> None:
    launched(tmp_path / "out", [], host="127.0.0.2")
    (gateway,) = [part for part in parts.started if part.name == "gateway"]
    assert gateway.arguments[gateway.arguments.index("--host") + 1] == "127.0.0.2"
    assert engine_settings(str(tmp_path / "out" / "engine-0.json")).host == LOOPBACK
    assert decider_settings(tmp_path / "out" / "decider.json").host == LOOPBACK


@pytest.mark.parametrize(("stopping", "last"), [("decider", "decider"), ("gateway", "gateway"), (None, "users")])
def test_who_is_asked_to_stop_while_it_starts_starts_nothing_more_and_fails_nothing(
    parts: type[Parts], stopping: str | None, last: str, tmp_path: Path
) -> None:
    parts.stopping, told = stopping, list[str]()
    launched(tmp_path / "out", told)
    assert parts.started[-1].name == last
    assert bool(told) == (stopping is None), "it says that it is there"


def test_a_directory_in_which_live_mode_runs_is_not_touched(parts: type[Parts], tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = live_config(BEGUN, out, (), resume=False)
    with RunDirectory(out / LOGS), pytest.raises(UserError, match="works in it"):
        Launch(config, Place(out), lambda _: None).run()
    assert not (out / CONFIG).exists()
    assert parts.started == []
    Launch(config, Place(out), lambda _: None).run()
    assert parts.started
