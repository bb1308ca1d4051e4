"""A live engine that listens in a thread of this process, and clients of its streams."""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import torch
import uvicorn
from safetensors.torch import save_file

from actors.live import LiveBackend, LiveRequest
from actors.live_engine import make_app
from actors.sampling import SampleRequest
from sea_agent.types import Prompt
from sea_agent.weights import WeightUpdate

TOKEN = "a secret"
DEADLINE_SECONDS = 120.0
Result = TypeVar("Result")


@dataclass
class Streamed:
    """What a client received of one response."""

    prompt: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> list[int]:
        return [token for step in self.steps for token in step["token_ids"]]

    @property
    def logprobs(self) -> list[float]:
        return [value for step in self.steps for value in step["logprobs"]]

    @property
    def versions(self) -> list[int]:
        """The version of each token."""
        return [step["version"] for step in self.steps for _ in step["token_ids"]]

    @property
    def text(self) -> str:
        """What a user saw."""
        return "".join(step["text"] for step in self.steps)


class Client:
    """Speaks to an engine in the running loop."""

    def __init__(self, url: str, token: str = TOKEN) -> None:
        limits = httpx.Limits(max_connections=None)
        headers = {"Authorization": f"Bearer {token}"}
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=DEADLINE_SECONDS, limits=limits)

    async def generate(self, **body: Any) -> Streamed:
        """A whole response; an error if the stream breaks or is refused."""
        streamed = Streamed()
        async for line in self.lines(**body):
            take(line, streamed)
        assert streamed.last, "the stream ended without its last line"
        return streamed

    async def lines(self, **body: Any) -> Any:
        async with self.http.stream("POST", "/generate", json=body) as answer:
            if answer.status_code != 200:
                raise AssertionError(f"{answer.status_code}: {(await answer.aread()).decode()}")
            async for line in answer.aiter_lines():
                yield json.loads(line)

    async def publish(self, directory: Path, update: WeightUpdate) -> httpx.Response:
        body = {"path": str(directory), "version": update.version, "checksum": update.checksum}
        return await self.http.put("/weights", json=body)

    async def state(self) -> dict[str, Any]:
        answer = await self.http.get("/state")
        assert answer.status_code == 200
        return dict(answer.json())

    async def until(self, key: str, value: Any) -> None:
        """Ask for the state until it says so."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (await self.state())[key] != value:
                pass


def take(line: dict[str, Any], streamed: Streamed) -> None:
    """Add a line to what was received."""
    if "prompt" in line:
        assert not streamed.prompt
        streamed.prompt = line["prompt"]
    elif "finish" in line:
        streamed.last = line
    else:
        assert streamed.prompt
        assert not streamed.last
        assert len(line["token_ids"]) == len(line["logprobs"])
        streamed.steps.append(line)


def body_of(request: SampleRequest, **others: Any) -> dict[str, Any]:
    """The body of /generate for a sampler's request."""
    return {
        "id": request.id,
        "token_ids": list(request.prompt.token_ids),
        "max_new_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        **others,
    }


def live(request: SampleRequest, **others: Any) -> LiveRequest:
    """The same for a back end."""
    return LiveRequest(
        request.id, request.prompt.token_ids, request.max_new_tokens, request.temperature, request.seed, **others
    )


def sampled(body: dict[str, Any]) -> SampleRequest:
    """A sampler's request for a body of /generate."""
    prompt = Prompt(body["id"], "", tuple(body["token_ids"]))
    return SampleRequest(body["id"], prompt, body["seed"], body["temperature"], body["max_new_tokens"])


def save_weights(directory: Path, tensors: dict[str, torch.Tensor]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    return directory


@contextmanager
def listening(backend: LiveBackend) -> Iterator[str]:
    """The URL of an engine over a back end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(make_app(backend, TOKEN), lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(DEADLINE_SECONDS)


def run(url: str, work: Callable[[Client], Awaitable[Result]]) -> Result:
    """Do a client's work in a loop of its own."""

    async def whole() -> Result:
        client = Client(url)
        async with client.http, asyncio.timeout(DEADLINE_SECONDS):
            return await work(client)

    return asyncio.run(whole())


async def gathered(client: Client, bodies: Sequence[dict[str, Any]]) -> list[Streamed]:
    return list(await asyncio.gather(*(client.generate(**body) for body in bodies)))
