"""Users of the lexicon world: what they ask, what they are answered by the initial policy, and what they prefer."""

import functools
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from live_gateway import KEY, Gateway

from actors.samplers import make_sampler
from actors.sampling import Sampler, SampleRequest
from oracle.base import bradley_terry
from sea_agent.config import PolicyConfig, RunConfig, SamplerConfig
from sea_agent.config.files import apply_settings, parse_config
from sea_agent.data.prompts import PromptSource
from sea_agent.errors import Stopped
from sea_agent.live.agent_part import SPENT, AgentPart
from sea_agent.pretrained import load_tokenizer
from sea_agent.run.session import Watch
from sea_agent.seeding import seed_for
from sea_agent.types import Prompt
from sea_agent.worlds import scorer

POLICY = "world://lexicon/policy"


def live_config(gateway: Gateway, **changes: Any) -> RunConfig:
    """A short run of live mode; ``changes`` are dotted keys with ``__`` for the dot."""
    os.environ["SEA_AGENT_KEY"] = KEY
    tree: dict[str, Any] = {
        "batch_size": 4,
        "policy": {"path": POLICY},
        "sampler": {"candidates": 4, "max_new_tokens": 14},
        "posterior": {"family": "laplace", "features": "text", "members": 8},
        "imagination": {"rounds": 1, "start": 8},
        "oracle": {"kind": "live", "url": gateway.url},
        "learner": {"learning_rate": 1e-3, "beta": 0.3, "max_staleness": 50},
        "budget": {"oracle_queries": 12},
        "checkpoint": {"every": 2},
        "live": {"round_seconds": 0.01, "max_weight_share": 1.0, "gate": {"min_users": 1, "least_prompts": 2}},
    }
    apply_settings(tree, {key.replace("__", "."): value for key, value in changes.items()})
    return parse_config(tree, where="test")


def live_to_the_end(config: RunConfig, out: Path) -> None:
    """A life of an agent that is stopped once it has spent its budget."""
    told: list[str] = []
    with suppress(Stopped):
        AgentPart(config, out, Watch(tell=told.append, stopping=lambda: SPENT in told)).run()
    assert SPENT in told


@functools.cache
def sampler() -> Sampler:
    return make_sampler(PolicyConfig(path=POLICY), SamplerConfig(max_new_tokens=14), device="cpu", threads=1)


@functools.cache
def prompts(file: str = "prompts.jsonl") -> PromptSource:
    config = parse_config(
        {
            "policy": {"path": POLICY},
            "prompts": {"path": f"world://lexicon/{file}", "shuffle": False},
            "oracle": {"kind": "world"},
            "budget": {"oracle_queries": 1},
        },
        where="test",
    )
    return PromptSource(config.prompts, load_tokenizer(POLICY), context_length=64, max_new_tokens=14, seed=0)


def served(one: Any, version: int = 0) -> dict[str, Any]:
    """A response as the gateway keeps it."""
    return {
        "text": one.text,
        "token_ids": list(one.token_ids),
        "logprobs": list(one.logprobs),
        "policy_version": version,
    }


def asked(prompt: Prompt) -> dict[str, Any]:
    """A prompt as the gateway keeps it."""
    return {
        "text": prompt.text,
        "token_ids": list(prompt.token_ids),
        "messages": [{"role": "user", "content": prompt.text}],
    }


class Users:
    """Ask the gateway's policy about one prompt after the other, and prefer what the hidden reward prefers."""

    def __init__(self, gateway: Gateway, seed: int = 0) -> None:
        self.gateway, self._seed, self._at = gateway, seed, 0
        self._reward = scorer("lexicon", "reward")

    def duels(self, count: int, *, user: str | None = None, answered: bool = True, **options: Any) -> list[str]:
        """New duels of two different responses, answered at once or not; their completions."""
        found = []
        for prompt, pair in self._pairs(count):
            who = user or f"user-{self._at % 5}"
            id_ = self.gateway.ask(asked(prompt), served(pair[0]), served(pair[1]), user=who, **options)
            if answered:
                self.gateway.choose(id_, self.prefers(prompt, *pair))
            found.append(id_)
        return found

    def prefers(self, prompt: Prompt, first: Any, second: Any) -> str:
        chance = bradley_terry(self._reward(prompt.text, first.text), self._reward(prompt.text, second.text))
        draw = np.random.default_rng(seed_for("pick", self._seed, self._at)).random()
        return "first" if draw < chance else "second"

    def conversations(self, count: int, *, heldout: bool) -> None:
        """Conversations without a duel."""
        for prompt in prompts("heldout.jsonl").first(count):
            self.gateway.tell(asked(prompt), heldout=heldout)

    def _pairs(self, count: int) -> Any:
        there = prompts().first(self._at + 3 * count)[self._at :]
        requests = [
            SampleRequest(f"{prompt.id}-{side}", prompt, seed_for("duel", self._seed, prompt.id, side), 0.7, 14)
            for prompt in there
            for side in range(2)
        ]
        given = {one.id: replace(one, policy_version=0) for one in sampler().sample(requests)}
        left = count
        for prompt in there:
            if not left:
                return
            self._at += 1
            pair = [given[f"{prompt.id}-{side}"] for side in range(2)]
            if pair[0].text != pair[1].text:
                left -= 1
                yield prompt, pair


def bytes_of(out: Path) -> dict[Path, bytes]:
    """Every file below ``out``, whole."""
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
