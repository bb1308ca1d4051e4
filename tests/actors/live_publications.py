"""Weights that are published in turn under streams, and what tells which weights made a token.

A response is computed again by transformers alone, one token after the other, each pass with the weights that the
engine named for its token, over the cache that the passes before it left. Each log-probability must be that of this
pass, and each token the one that its random number draws from it. A pass with other weights, or with some layers of
other weights, gives other numbers.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from live_clients import Client, Streamed, body_of, save_weights, take
from tiny_policies import perturbed, request

from sea_agent.config import PolicyConfig
from sea_agent.pretrained import load_policy
from sea_agent.seeding import generator_for
from sea_agent.weights import WeightUpdate

STREAMS, STEPS = 6, 40


@dataclass
class Publications:
    """Two sets of weights on disk, published in turn: odd versions are the first, even ones the second."""

    updates: tuple[WeightUpdate, WeightUpdate]
    directories: tuple[Path, Path]
    models: tuple[Any, Any]
    initial: Any

    def of(self, version: int) -> tuple[Path, WeightUpdate]:
        return self.directories[version % 2], replace(self.updates[version % 2], version=version)

    def model(self, version: int) -> Any:
        return self.initial if version == 0 else self.models[version % 2]


def make_publications(policy: PolicyConfig, root: Path) -> Publications:
    made = [perturbed(policy, version) for version in (2, 1)]
    directories = [save_weights(root / str(place), update.tensors) for place, (update, _) in enumerate(made)]
    return Publications(
        (made[0][0], made[1][0]),
        (directories[0], directories[1]),
        (made[0][1], made[1][1]),
        load_policy(policy.path, "float32", "cpu"),
    )


async def under_load(
    client: Client, publications: Publications, publishes: int, first: int = 1
) -> list[tuple[dict, Streamed]]:
    """Publish versions from ``first`` on in turn, each once a stream has a token of the version before; streams come
    and go meanwhile."""
    responses: list[tuple[dict, Streamed]] = []
    seen: dict[int, asyncio.Event] = {version: asyncio.Event() for version in range(first - 1, first + publishes)}
    ended = False

    async def stream(number: int) -> None:
        turn = 0
        while not ended:
            one = request(f"s{number}-{turn}", [2 + (number + turn) % 40] * (1 + turn % 5), 1000 * number + turn, 1.0)
            body = body_of(replace(one, max_new_tokens=STEPS), priority=number % 2)
            streamed = Streamed()
            async for line in client.lines(**body):
                take(line, streamed)
                if line.get("version") in seen:
                    seen[line["version"]].set()
            assert streamed.last, "a stream was cut"
            responses.append((body, streamed))
            turn += 1

    async def publish() -> None:
        nonlocal ended
        for version in range(first, first + publishes):
            if version > first:
                await seen[version - 1].wait()
            answer = await client.publish(*publications.of(version))
            assert answer.status_code == 200, answer.text
            assert answer.json()["version"] == version
            assert answer.json()["seconds"] >= 0.0
        await seen[first + publishes - 1].wait()
        ended = True

    async with asyncio.TaskGroup() as group:
        for number in range(STREAMS):
            group.create_task(stream(number))
        group.create_task(publish())
    return responses


@torch.inference_mode()
def faults(
    body: Mapping[str, Any],
    streamed: Streamed,
    publications: Publications,
    *,
    keyed: bool = True,
    tolerance: float = 1e-4,
) -> list[str]:
    """The tokens of a response that the weights of their versions did not make; ``keyed`` by this project's numbers."""
    found, cache = [], None
    ids = torch.tensor([body["token_ids"]])
    numbers = generator_for("response", body["seed"]).random(STEPS)
    rows = zip(streamed.tokens, streamed.logprobs, streamed.versions, numbers, strict=False)
    for place, (token, logprob, version, number) in enumerate(rows):
        output = publications.model(version)(input_ids=ids, past_key_values=cache, use_cache=True)
        cache, logits_V = output.past_key_values, output.logits[0, -1].double()
        cdf_V = np.cumsum(logits_V.softmax(-1).numpy())
        drawn = int(np.searchsorted(cdf_V, number * cdf_V[-1], side="right"))
        difference = abs(float(logits_V.log_softmax(-1)[token]) - logprob)
        if (keyed and drawn != token) or difference > tolerance:
            found.append(
                f"{body['id']}: token {place} is not of version {version} ({token}, {drawn}, {difference:.2g})"
            )
        ids = torch.tensor([[token]])
    return found
