"""The decider of live mode: says over HTTP which two responses are worth a user's choice.

    python -m sea_agent.live.decider SETTINGS.json

It loads the features of the posterior once and decides with the newest snapshot that the agent has left in
``OUT/decider``, without one passively. A snapshot is loaded beside the decisions and then taken over whole, so that
each decision is by one snapshot. Decisions are made one after the other; whoever asks waits no longer than they like,
and is told at once when too many others wait.
"""

import asyncio
import contextlib
import hmac
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from sea_agent.config import WorldOracleConfig
from sea_agent.config.files import load_config
from sea_agent.config.section import read_settings as settings_in
from sea_agent.errors import RunFailure, UserError
from sea_agent.features import Features, make_features
from sea_agent.live.snapshots import Snapshots
from sea_agent.loop.deciding import Decision, decide, live_trust
from sea_agent.loop.selector import Selector
from sea_agent.pretrained import use_threads
from sea_agent.run.resumption import kept
from sea_agent.service.chat.settings import TOKEN
from sea_agent.types import Prompt, Response
from sea_agent.web.listening import listen
from sea_agent.web.problems import Problem, install
from sea_agent.web.signals import Signals

SNAPSHOTS = "decider"
"""Directory of the snapshots below that of the run."""
POLL_SECONDS = 1.0
MOST_WAITING = 64
"""Decisions that are begun or wait; one more is refused."""
_MATTER = ("seed", "policy", "selection", "posterior", "mixing")
"""Sections of the configuration that a snapshot and the decider have to share."""

logger = logging.getLogger(__name__)


class DeciderSettings(BaseModel):
    """The file that the decider is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: Path
    """The configuration of the run."""
    out: Path
    """The directory of the run."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)]


class PromptBody(BaseModel):
    """A prompt as the policy reads it."""

    text: str
    token_ids: tuple[int, ...]
    messages: tuple[dict[str, Any] | tuple[str, str], ...] | None = None


class ResponseBody(BaseModel):
    """A response as it was sampled."""

    id: str
    text: str
    token_ids: Annotated[tuple[int, ...], Field(min_length=1)]
    logprobs: tuple[float, ...] = ()
    policy_version: int = 0


class Question(BaseModel):
    """Which two of these responses?"""

    id: Annotated[str, Field(min_length=1)]
    """What keys all chance: the same question has the same answer until the next snapshot."""
    prompt: PromptBody
    responses: Annotated[tuple[ResponseBody, ...], Field(min_length=1, max_length=256)]
    shown: int | None = None
    """Place of the response that the user sees already."""

    def parts(self) -> tuple[Prompt, list[Response]]:
        """The same in the words of the loop."""
        given = self.prompt.messages
        messages = None if given is None else tuple(_role_and_content(one) for one in given)
        prompt = Prompt(self.id, self.prompt.text, self.prompt.token_ids, messages)
        return prompt, [
            Response(one.id, self.id, one.text, one.token_ids, one.logprobs, one.policy_version)
            for one in self.responses
        ]


class Decider:
    """Answers questions one after the other, with whatever snapshot is held when a question's turn comes."""

    def __init__(self, snapshots: Snapshots) -> None:
        self.snapshots = snapshots
        self.waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decide")

    async def decide(self, question: Question) -> Decision:
        """Raises: Problem when the question cannot be answered, or too many wait."""
        if question.shown is not None and not 0 <= question.shown < len(question.responses):
            raise Problem(422, f"shown: is {question.shown}, and there are {len(question.responses)} responses")
        if self.waiting >= MOST_WAITING:
            raise Problem(
                503, f"{self.waiting} decisions wait already: show one response", headers={"Retry-After": "1"}
            )
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self.answer, question)
        except (UserError, RunFailure) as error:
            raise Problem(500, str(error)) from None
        finally:
            self.waiting -= 1

    def answer(self, question: Question) -> Decision:
        """By the snapshot that is held now, from the beginning to the end."""
        held = self.snapshots.held
        prompt, responses = question.parts()
        return decide(None if held is None else held.selector, prompt, responses, question.id, question.shown)

    def close(self) -> None:
        """Answer nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def make_app(decider: Decider, token: str) -> FastAPI:
    """The routes: ``/decide`` and ``/state`` for who has the token, ``/healthz`` for all."""

    def authorised(request: Request) -> None:
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise Problem(401, f"Send the token of {TOKEN} as a bearer token.", headers={"WWW-Authenticate": "Bearer"})

    app = FastAPI(title="Decider", docs_url=None, redoc_url=None, openapi_url=None)
    install(app)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/state", dependencies=[Depends(authorised)])
    async def state() -> dict[str, Any]:
        held = decider.snapshots.held
        return {
            "snapshot": None if held is None else held.name,
            "posterior_version": 0 if held is None else held.selector.posterior_version,
            "trust": 0.0 if held is None else live_trust(held.selector),
            "waiting": decider.waiting,
        }

    @app.post("/decide", dependencies=[Depends(authorised)])
    async def decide_(question: Question) -> dict[str, Any]:
        return asdict(await decider.decide(question))

    return app


@contextlib.asynccontextmanager
async def polling(snapshots: Snapshots, seconds: float = POLL_SECONDS) -> AsyncIterator[None]:
    """Look for snapshots now and then until the end.

    All in one thread: each has a heap of its own, and what one snapshot took there is free for the next.
    """
    loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1, thread_name_prefix="snapshots")

    async def poll() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await loop.run_in_executor(thread, snapshots.refresh)
            except Exception:  # decisions go on with what is held, whatever is wrong with one that is new
                logger.exception("A snapshot could not be looked at")

    task = asyncio.create_task(poll())
    try:
        yield
    finally:
        task.cancel()
        thread.shutdown(wait=False, cancel_futures=True)


def load(settings: DeciderSettings) -> Snapshots:
    """The snapshots of a run, the newest of them held, with the features of its posterior loaded.

    Raises:
        UserError: the configuration or one of its models cannot be loaded.
    """
    config = load_config(str(settings.config))
    use_threads(config.threads)
    twin: Callable[[], Features] | None = None
    if config.needs_posterior:
        world = config.oracle.world if isinstance(config.oracle, WorldOracleConfig) else None
        twin = make_features(config.posterior, config.policy, world, config.compute).twin
    make_selector = partial(
        Selector,
        config.selection,
        config.posterior,
        config.mixing,
        config.compute,
        batch_size=config.batch_size,
        make_features=twin,
    )
    shared = {key: value for key, value in kept(config).items() if key.partition(".")[0] in _MATTER}
    snapshots = Snapshots(settings.out / SNAPSHOTS, shared, make_selector)
    snapshots.refresh()
    return snapshots


def read_settings(path: Path) -> DeciderSettings:
    """Raises: UserError when the file cannot be read or is none of these."""
    return settings_in(DeciderSettings, path, "a decider")


async def _serve(settings: DeciderSettings, token: str) -> None:
    decider = Decider(await asyncio.to_thread(load, settings))
    try:
        async with polling(decider.snapshots):
            await listen(
                make_app(decider, token),
                settings.host,
                settings.port,
                "",
                Signals(),
                lambda line: print(line, flush=True),
            )
    finally:
        decider.close()


def _role_and_content(message: dict[str, Any] | tuple[str, str]) -> tuple[str, str]:
    if isinstance(message, dict):
        return str(message.get("role", "")), str(message.get("content", ""))
    return message


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        if len(sys.argv) != 2:
            raise UserError("give one file: python -m sea_agent.live.decider SETTINGS.json")
        token = os.environ.get(TOKEN)
        if not token:
            raise UserError(f"{TOKEN}: is not set; the decider answers only who has its token")
        settings = read_settings(Path(sys.argv[1]))
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(settings, token))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
