"""Live mode as one command: gateway, engines, decider and agent, started, watched, and ended in order."""

import json
import os
import secrets
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from learner.weight_transfer import free_port
from oracle.service_client import KEY
from sea_agent.config import LiveConfig, RunConfig
from sea_agent.config.files import load_config, to_yaml
from sea_agent.config.live import TOKEN
from sea_agent.errors import RunFailure, UserError
from sea_agent.live.keeper import engine_part
from sea_agent.live.simulated_users import CHAT_KEY, Users
from sea_agent.live.supervisor import Part, Supervisor
from sea_agent.persistence.directory import RunDirectory
from sea_agent.persistence.files import write_whole
from sea_agent.run.preflight import Inputs, check
from sea_agent.run.resumption import holds, require_unused
from sea_agent.service.chat.settings import LiveSettings
from sea_agent.service.serve import ADMIN_KEY, SHORTEST_ADMIN_KEY, given_admin_key
from sea_agent.web.addresses import is_loopback, own_address
from sea_agent.worlds import SCHEME

LOOPBACK = "127.0.0.1"
AGENT, USERS = "live agent", "simulated users"
"""Names of their keys in the service."""
CONFIG, SETTINGS, DATABASE, LOGS = "config.yaml", "live.json", "service.sqlite", "logs"
REQUEST_SECONDS = 30.0


@dataclass(frozen=True)
class Place:
    """Where the endpoint is: address and port to listen on, its database (None: an SQLite file in ``out``), the path of
    its host below which a proxy shows it, and the addresses of proxies on other machines."""

    out: Path
    host: str = "127.0.0.1"
    port: int = 8400
    database: str | None = None
    root_path: str = ""
    proxies: tuple[str, ...] = ()


def live_config(source: str | None, out: Path, overrides: Sequence[str], resume: bool) -> RunConfig:
    """The configuration of live mode in ``out``: from ``source`` or, with ``resume`` alone, the one that is there. With
    both, ``source`` goes on with what is there, or begins where nothing was begun.

    Raises:
        UserError: when it is not one of live mode, when ``out`` holds something else, or with ``resume`` alone nothing.
    """
    begun = (out / CONFIG).is_file()
    if source is None and not resume:
        raise UserError("give a configuration, or --resume to go on with what is in --out")
    if source is None and not begun:
        raise UserError(f"--resume: {out} holds no live mode (it has no {CONFIG}); give a configuration to begin one")
    if begun and not resume:
        raise UserError(f"--out {out}: holds live mode already; go on with it: sea-agent live --out {out} --resume")
    config = load_config(source or str(out / CONFIG), overrides)
    if config.live is None or config.oracle.kind != "live":
        raise UserError("live mode needs a configuration with `oracle: {kind: live}` and a section `live:`")
    oracle = config.oracle.model_copy(update={"run": config.live.run})
    config = config.model_copy(update={"oracle": oracle})
    if not holds(out, config):
        require_unused(out)
    return config


@dataclass(frozen=True)
class Launch:
    """Live mode of ``config`` at a place, with so many simulated ``users``."""

    config: RunConfig
    place: Place
    tell: Callable[[str], None]
    users: int = 0

    def run(self) -> None:
        """Start live mode and keep it running until SIGTERM or Ctrl-C.

        Raises:
            UserError: for bad input, before anything starts where that is possible.
            RunFailure: when a part cannot start, or ends because of something that another start would not mend.
        """
        given, place, out = given_admin_key(), self.place, self.place.out
        if given is None and not is_loopback(place.host):
            raise UserError(
                f"--host {place.host}: refused, as nobody has a key yet. Set {ADMIN_KEY} to a random text of at least "
                f"{SHORTEST_ADMIN_KEY} characters."
            )
        inputs = check(self._with_url(""))
        environment = {TOKEN: _token(inputs), "PYTHONUNBUFFERED": "1"}
        world = _world(self.config.policy.path) if self.users else None
        with RunDirectory(out / LOGS):
            self._run(inputs, environment, given, world)

    def _run(self, inputs: Inputs, environment: dict[str, str], given: str | None, world: str | None) -> None:
        place, out = self.place, self.place.out
        try:
            port = place.port or free_port(place.host)
        except OSError as error:
            raise UserError(f"--host {place.host}: cannot listen there ({error.strerror})") from None
        url = f"http://{own_address(place.host)}:{port}"
        admin = given or secrets.token_urlsafe(32)
        write_whole(out / CONFIG, to_yaml(self._with_url(url)))
        with Supervisor(out / LOGS, environment | {ADMIN_KEY: admin}, self.tell) as supervisor:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, supervisor.stop)
            serving = self._serving(inputs)
            if not supervisor.start(*serving) or not supervisor.start(self._gateway(url, port, serving)):
                return
            supervisor.start(*self._clients(url, admin, world))
            _announce(url, place.host, self._live.run, None if given else admin, self.tell)
            supervisor.watch()

    @property
    def _live(self) -> LiveConfig:
        assert self.config.live is not None  # see ``live_config``
        return self.config.live

    def _with_url(self, url: str) -> RunConfig:
        oracle = self.config.oracle.model_copy(update={"url": url})
        return self.config.model_copy(update={"oracle": oracle})

    def _serving(self, inputs: Inputs) -> list[Part]:
        """The engines, on a cluster their keepers, and the decider, with their settings on disk."""
        config, out = self.config, self.place.out
        settings = {
            "policy": config.policy.model_dump(mode="json"),
            "sampler": config.sampler.model_dump(mode="json"),
            "device": config.device,
            "threads": config.threads,
            "initial": self._live.audit_share > 0,
        }
        count, run = self._live.engines, self._live.run
        parts = [engine_part(out, run, need, count, inputs.compute, settings) for need in inputs.engines]
        for index in () if parts else range(count):
            port = free_port(LOOPBACK)
            parts.append(self._part(f"engine-{index}", "actors.live_engine", settings | {"port": port}))
        port = free_port(LOOPBACK)
        decider = {"config": str(out / CONFIG), "out": str(out), "port": port}
        return [*parts, self._part("decider", "sea_agent.live.decider", decider)]

    def _part(self, name: str, module: str, settings: dict[str, Any]) -> Part:
        """A part of this machine that loads a model, with its settings on disk."""
        file = self.place.out / f"{name}.json"
        write_whole(file, json.dumps(settings, indent=2) + "\n")
        url = f"http://{LOOPBACK}:{settings['port']}"
        return Part(name, ["-m", module, str(file)], url, deadline=self.config.deadline_seconds)

    def _gateway(self, url: str, port: int, serving: Sequence[Part]) -> Part:
        place, out = self.place, self.place.out
        urls = [str(part.url) for part in serving]
        settings = LiveSettings(
            live=self._live,
            engines=tuple(urls[:-1]),
            decider=urls[-1],
            max_new_tokens=self.config.sampler.max_new_tokens,
            temperature=self.config.sampler.temperature,
        )
        write_whole(out / SETTINGS, settings.model_dump_json(indent=2) + "\n")
        database = place.database or f"sqlite:///{(out / DATABASE).resolve()}"
        where = ["--host", place.host, "--port", str(port), "--database", database, "--runs", str(out.parent)]
        where += ["--root-path", place.root_path, *(f"--proxy={one}" for one in place.proxies)]
        arguments = ["-m", "sea_agent", "serve", *where, "--live", str(out / SETTINGS)]
        return Part("gateway", arguments, url)

    def _clients(self, url: str, admin: str, world: str | None) -> list[Part]:
        """The agent, and the simulated users of a world, with keys of the gateway at ``url``."""
        out, run = self.place.out, self._live.run
        arguments = ["-m", "sea_agent.live.agent_part", str(out / CONFIG), "--out", str(out)]
        parts = [Part("agent", arguments, environment={KEY: _new_key(url, admin, AGENT, "experiment", run)})]
        if world is not None:
            key = _new_key(url, admin, USERS, "chat", run)
            parts.append(_users(out, url, run, world, self.users, key))
        return parts


def _token(inputs: Inputs) -> str:
    """The secret of the engines: a new one, or where others reach them the one of the environment, by which a later
    start finds them again. Raises: UserError when it is not there, or can be guessed."""
    given = os.environ.get(TOKEN, "")
    if not inputs.engines:
        return secrets.token_hex(32)
    if len(given) < SHORTEST_ADMIN_KEY or not given.isascii() or not given.isprintable() or " " in given:
        raise UserError(
            f"runtime=ray: engines listen on the addresses of their nodes, and answer who has {TOKEN}. Set it to a "
            f"random text of at least {SHORTEST_ADMIN_KEY} printable ASCII characters without spaces, and to the same "
            "one with --resume."
        )
    return given


def _world(policy: str) -> str:
    """The built-in world of a policy. Raises: UserError when it is of none."""
    if not policy.startswith(SCHEME):
        raise UserError(f"--users: simulated users know the built-in worlds only, not policy.path={policy}")
    return policy.removeprefix(SCHEME).partition("/")[0]


def _users(out: Path, url: str, model: str, world: str, count: int, key: str) -> Part:
    prompts = f"{SCHEME}{world}/prompts.jsonl"
    settings = {"url": url, "model": model, "world": world, "count": count, "prompts": prompts}
    users = Users.model_validate(settings | {"log": out / "users.jsonl"})
    write_whole(out / "users.json", users.model_dump_json(indent=2) + "\n")
    arguments = ["-m", "sea_agent.live.simulated_users", str(out / "users.json")]
    return Part("users", arguments, environment={CHAT_KEY: key})


def _new_key(url: str, admin: str, name: str, scope: str, run: str) -> str:
    """A new key of that name; those of earlier starts end. Raises: RunFailure."""
    headers = {"Authorization": f"Bearer {admin}"}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=REQUEST_SECONDS, trust_env=False) as client:
            for key in client.get("/v1/keys").raise_for_status().json()["keys"]:
                if key["name"] == name and key["revoked_at"] is None:
                    client.delete(f"/v1/keys/{key['id']}").raise_for_status()
            made = client.post("/v1/keys", json={"name": name, "scopes": [scope], "runs": [run]})
            return str(made.raise_for_status().json()["key"])
    except httpx.HTTPError as error:
        raise RunFailure(f"the gateway made no key {name!r} ({error})") from None


def _announce(url: str, host: str, run: str, admin: str | None, tell: Callable[[str], None]) -> None:
    tell(f"endpoint   {url}/v1   (OpenAI's API; model {run})")
    tell(f"chat       {url}/chat")
    tell(f"watch      {url}/live")
    tell(f"people     {url}/admin   (make keys here: scope chat for apps and users)")
    if admin is not None:
        tell(f"admin key  {admin}   (until the next start; set {ADMIN_KEY} to keep one)")
    if not is_loopback(host):
        tell(f"listening on {host}: put a proxy with TLS in front")
