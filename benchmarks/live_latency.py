"""How much later the first token comes through the gateway of live mode than from its engine.

    python -m benchmarks.live_latency [--world lexicon] [--layers 3 100] [--turns 6] [--markdown]

One engine and one gateway, each a process of its own, as ``sea-agent live`` starts them; nobody is asked. The same
requests with the same seeds are sent in turns of ``REQUESTS``

- ``engine``: to the engine itself,
- ``plain``: to the gateway, by a client that never heard of duels,
- ``allowed``: to the gateway, by one that allows duels,

each as a stream, by 1 and by 8 clients that ask again as soon as they are answered, over kept connections. Nothing else
differs: a client sends bytes that were made before, and takes the time until the first bytes with a text of the
response. Ratios are those within a turn, so that they hold when the machine's speed drifts: their geometric means over
turns, with bootstrap intervals. The engine counts the responses that it begins: an unasked request costs one.

A policy of a built-in world has its first token sooner than any that is of use. ``--layers`` gives it further layers
that add nothing to what passes: it says the same, as late as a larger one would.

This process shares the machine with both. Writes ``benchmarks/results/live_latency.json``.
"""

import argparse
import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.keeping import keep
from learner.weight_transfer import free_port
from sea_agent.config import LiveConfig
from sea_agent.config.live import TOKEN
from sea_agent.errors import RunFailure
from sea_agent.lab.statistics import estimate
from sea_agent.seeding import seed_for
from sea_agent.service.chat.settings import LiveSettings
from sea_agent.service.serve import ADMIN_KEY
from sea_agent.worlds import resolve

RESULTS = Path(__file__).parent / "results" / "live_latency.json"
WAYS = ("engine", "plain", "allowed")
CLIENTS = (1, 8)
LAYERS = (3, 100)
"""The world's own, and so many that a first token comes as late as one of a larger policy."""
REQUESTS = 48
"""Of a turn, by all clients together."""
PERCENTILES = (50, 95)
HOST, TOKENS, TEMPERATURE = "127.0.0.1", 14, 0.7
START_SECONDS, REQUEST_SECONDS = 300.0, 60.0
TEXT_OF_ENGINE = re.compile(rb'\n\{"text": "[^"]')
TEXT_OF_GATEWAY = re.compile(rb'"content": "[^"]')


@dataclass(frozen=True)
class Way:
    """Where requests go, what they are, what tells of a first text, and how an answer ends."""

    port: int
    head: str
    body: Callable[[str, int], dict[str, Any]]
    text: "re.Pattern[bytes]"

    def request(self, prompt: str, seed: int) -> bytes:
        """The bytes to send."""
        body = json.dumps(self.body(prompt, seed)).encode()
        head = f"{self.head}\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


def ways(ports: Sequence[int], token: str, key: str) -> dict[str, Way]:
    """Each way, by the ports of both and what they ask for."""

    def to_engine(prompt: str, seed: int) -> dict[str, Any]:
        drawn = {"max_new_tokens": TOKENS, "temperature": TEMPERATURE, "seed": seed_for("seed", seed, 0)}
        return {"id": f"direct-{seed}", "messages": [{"role": "user", "content": prompt}]} | drawn

    def to_gateway(prompt: str, seed: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        return {"model": "live", "messages": messages, "seed": seed, "stream": True, "user": f"user {seed}"}

    def allowing(prompt: str, seed: int) -> dict[str, Any]:
        return to_gateway(prompt, seed) | {"sea": {"duel": "allow"}}

    head = f"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer {key}"
    return {
        "engine": Way(ports[0], f"POST /generate HTTP/1.1\r\nAuthorization: Bearer {token}", to_engine, TEXT_OF_ENGINE),
        "plain": Way(ports[1], head, to_gateway, TEXT_OF_GATEWAY),
        "allowed": Way(ports[1], head, allowing, TEXT_OF_GATEWAY),
    }


class Client:
    """A kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: "re.Pattern[bytes]") -> None:
        self._reader, self._writer, self._text = reader, writer, text

    async def first_text(self, request: bytes) -> float:
        """Seconds until a text of the response came, once all of it has. Raises: RunFailure for no such answer."""
        async with asyncio.timeout(REQUEST_SECONDS):
            came, first = b"", None
            began = time.perf_counter()
            self._writer.write(request)
            while not came.endswith(b"0\r\n\r\n"):
                piece = await self._reader.read(65536)
                came += piece
                if not piece or not came.startswith(b"HTTP/1.1 200"[: len(came)]):
                    raise RunFailure(f"not an answer: {came[:300]!r}")
                if first is None and self._text.search(came):
                    first = time.perf_counter() - began
        if first is None:
            raise RunFailure(f"an answer without a text: {came[-300:]!r}")
        return first

    def leave(self) -> None:
        self._writer.close()


async def turn(way: Way, clients: int, prompts: Sequence[str], seed: int) -> list[float]:
    """Seconds until the first text of ``REQUESTS`` requests."""
    there = [Client(*await asyncio.open_connection(HOST, way.port), way.text) for _ in range(clients)]
    requests = [way.request(prompts[n % len(prompts)], seed + n) for n in range(REQUESTS)]

    async def ask(place: int) -> list[float]:
        return [await there[place].first_text(request) for request in requests[place::clients]]

    waits = await asyncio.gather(*map(ask, range(clients)))
    for client in there:
        client.leave()
    return [wait for one in waits for wait in one]


def compare(waits: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Percentiles of each way in milliseconds over all turns, and ratios to the engine's within turns."""
    found: dict[str, Any] = {}
    for way, turns in waits.items():
        found[way] = {f"p{one}_ms": float(np.percentile(np.concatenate(turns), one)) * 1e3 for one in PERCENTILES}
        for one in PERCENTILES if way != "engine" else ():
            mine, bare = (np.percentile(np.array(part), one, axis=1) for part in (turns, waits["engine"]))
            ratio, later = estimate(np.log(mine / bare)), estimate((mine - bare) * 1e3)
            ends = [None if end is None else float(np.exp(end)) for end in (ratio.low, ratio.high)]
            found[way] |= {f"p{one}_ratio": [float(np.exp(ratio.mean)), *ends]}
            found[way] |= {f"p{one}_later_ms": [later.mean, later.low, later.high]}
    return found


def deepened(policy: Path, layers: int, folder: Path) -> Path:
    """A policy with so many layers that says what ``policy`` does, in ``folder``: further layers add zero."""
    model = AutoModelForCausalLM.from_pretrained(policy)
    own = model.config.num_hidden_layers
    model.config.num_hidden_layers = layers
    model.config.layer_types = None
    deep = AutoModelForCausalLM.from_config(model.config)
    missing, unexpected = deep.load_state_dict(model.state_dict(), strict=False)
    if unexpected or any(int(name.split(".")[2]) < own for name in missing):
        raise RunFailure(f"{policy} is no policy whose layers are model.layers.N")
    with torch.no_grad():
        for layer in deep.model.layers[own:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    deep.save_pretrained(folder)
    AutoTokenizer.from_pretrained(policy).save_pretrained(folder)
    return folder


@contextmanager
def running(policy: Path, folder: Path) -> Iterator[tuple[dict[str, Way], Callable[[], int]]]:
    """Engine and gateway: each way to them, and how many responses the engine has begun."""
    token, key, ports = secrets.token_hex(16), secrets.token_urlsafe(32), [free_port(HOST) for _ in range(2)]
    engine = {"policy": {"path": str(policy)}, "port": ports[0]}
    live = LiveConfig(ask_share=0.0, considered_share=0.0, audit_share=0.0, requests_per_minute=1e6)
    urls = tuple(f"http://{HOST}:{port}" for port in ports)
    settings = LiveSettings(
        live=live, engines=urls[:1], decider=urls[0], max_new_tokens=TOKENS, temperature=TEMPERATURE
    )
    (folder / "engine.json").write_text(json.dumps(engine))
    (folder / "live.json").write_text(settings.model_dump_json())
    where = ["--data", str(folder), "--port", str(ports[1]), "--live", str(folder / "live.json")]
    commands = [["-m", "actors.live_engine", str(folder / "engine.json")], ["-m", "sea_agent", "serve", *where]]
    environment = os.environ | {TOKEN: token, ADMIN_KEY: key, "OMP_NUM_THREADS": "1"}
    processes = []
    try:
        with (folder / "log").open("wb") as log:
            for command in commands:
                processes.append(subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log))
        for url, process in zip(urls, processes, strict=True):
            until = time.monotonic() + START_SECONDS
            while not is_well(url):
                if process.poll() is not None or time.monotonic() > until:
                    raise RunFailure(f"engine or gateway did not start: {(folder / 'log').read_text()[-500:]}")
                time.sleep(0.1)

        def begun() -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return int(httpx.get(f"{urls[0]}/state", headers=headers, trust_env=False).json()["responses"])

        yield ways(ports, token, key), begun
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(REQUEST_SECONDS)


def is_well(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def measure(world: str, layers: Sequence[int], turns: int) -> dict[str, Any]:
    """All figures. Raises: RunFailure when a request costs more or less than one response."""
    rows = Path(resolve(f"world://{world}/prompts.jsonl")).read_text(encoding="utf-8").splitlines()
    prompts = [str(json.loads(row)["prompt"]) for row in rows[:REQUESTS]]
    figures = {}
    for count in layers:
        with tempfile.TemporaryDirectory() as folder:
            policy = deepened(Path(resolve(f"world://{world}/policy")), count, Path(folder) / "policy")
            figures[str(count)] = _first_tokens(policy, prompts, turns, Path(folder))
    measured = {"world": world, "turns": turns, "requests_of_a_turn": REQUESTS, "cores": os.cpu_count()}
    return measured | {"layers": figures}


def _first_tokens(policy: Path, prompts: Sequence[str], turns: int, folder: Path) -> dict[str, Any]:
    figures = {}
    with running(policy, folder) as (found, begun):
        for clients in CLIENTS:
            waits: dict[str, list[list[float]]] = {way: [] for way in WAYS}
            for number in range(-1, turns):  # the first one is not counted
                for way in WAYS[:: 1 if number % 2 else -1]:
                    before = begun()
                    seconds = asyncio.run(turn(found[way], clients, prompts, 1000 * clients + number))
                    if (drawn := begun() - before) != REQUESTS:
                        raise RunFailure(f"{REQUESTS} requests ({way}) cost {drawn} responses of the engine")
                    waits[way] += [seconds] * (number >= 0)
            figures[str(clients)] = compare(waits)
    return figures


def markdown(results: Mapping[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        "| layers | clients | | p50, ms | p95, ms | p50 ratio | p95 ratio | later at p50, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for layers, by_clients in results["layers"].items():
        for clients, figures in by_clients.items():
            for way, one in figures.items():
                spans = [_span(one.get(name)) for name in ("p50_ratio", "p95_ratio", "p50_later_ms")]
                cells = (layers, clients, way, f"{one['p50_ms']:.1f}", f"{one['p95_ms']:.1f}", *spans)
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _span(value: Sequence[float] | None) -> str:
    if value is None:
        return ""
    return f"{value[0]:.2f}" if value[1] is None else f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=("lexicon", "kitchen", "reviews"), default="lexicon")
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--markdown", action="store_true", help="print what was measured last")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # engine and gateway end with this process
    if not given.markdown:
        measured = measure(given.world, given.layers, given.turns)
        keep(RESULTS, measured)
    print(markdown(json.loads(RESULTS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
