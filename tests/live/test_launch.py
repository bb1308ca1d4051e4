"""How live mode is begun, gone on with, and stopped while it starts; its parts are not run."""

import json
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.live_engine import read_settings as engine_settings
from learner.weight_transfer import free_port
from sea_agent.config.files import load_config, to_yaml
from sea_agent.errors import UserError
from sea_agent.live import launch
from sea_agent.live.decider import read_settings as decider_settings
from sea_agent.live.launch import CONFIG, LOGS, LOOPBACK, Launch, Place, live_config
from sea_agent.live.supervisor import START_SECONDS, Part, Supervisor
from sea_agent.persistence.directory import RunDirectory
from sea_agent.web.addresses import own_address

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


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("localhost", "localhost"),
    ],
)
def test_the_parts_reach_the_gateway_where_it_listens(
    parts: type[Parts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, own: str
) -> None:
    monkeypatch.setenv("SEA_AGENT_ADMIN_KEY", "k" * 32)
    told: list[str] = []
    launched(tmp_path / "out", told, host=host, port=8765)
    (gateway,) = [part for part in parts.started if part.name == "gateway"]
    assert gateway.url == f"http://{own}:8765"
    assert load_config(str(tmp_path / "out" / CONFIG)).oracle.url == gateway.url  # type: ignore[union-attr]
    assert json.loads((tmp_path / "out" / "users.json").read_text())["url"] == gateway.url
    assert told[0].startswith(f"endpoint   http://{own}:8765/v1")


@pytest.mark.parametrize("host", ["127.0.0.3", "::1", "localhost"])
def test_what_listens_on_a_host_answers_at_its_own_address(host: str) -> None:
    port = free_port(host)
    server = ThreadingHTTPServer((host, port), BaseHTTPRequestHandler, bind_and_activate=False)
    server.address_family = socket.getaddrinfo(host, port)[0][0]
    server.socket = socket.socket(server.address_family)
    with server:
        server.server_bind()
        server.server_activate()
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        answer = httpx.get(f"http://{own_address(host)}:{port}/", trust_env=False)
        server.shutdown()
    assert answer.status_code == 501


def test_a_host_that_is_none_is_refused_before_anything_starts(
    parts: type[Parts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEA_AGENT_ADMIN_KEY", "k" * 32)
    with pytest.raises(UserError, match="--host 192\\.0\\.2\\.1: cannot listen there"):
        launched(tmp_path / "out", [], host="192.0.2.1", port=0)
    assert parts.started == []


def test_what_loads_a_model_has_the_time_that_the_configuration_gives_it(parts: type[Parts], tmp_path: Path) -> None:
    config = live_config(BEGUN, tmp_path / "out", ["deadline_seconds=1234"], resume=False)
    Launch(config, Place(tmp_path / "out"), print).run()
    deadlines = {part.name: part.deadline for part in parts.started}
    assert (deadlines["engine-0"], deadlines["decider"], deadlines["gateway"]) == (1234, 1234, START_SECONDS)


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
