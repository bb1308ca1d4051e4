"""Live duels among responses with given texts, and selectors whose beliefs are given."""

from typing import Any

import torch

from sea_agent.bandit.betting import Wager
from sea_agent.loop.deciding import Decision, decide
from sea_agent.loop.selector import Look
from sea_agent.types import Candidates, Prompt, Response

PROMPT = Prompt("p", "w1 w2", (4, 5))


def responses(*texts: str) -> list[Response]:
    return [
        Response(f"r{place}", "p", text, tuple(int(word[1:]) + 3 for word in text.split()), (), 0)
        for place, text in enumerate(texts)
    ]


class Known:
    """A selector whose posterior draws are given."""

    posterior_version = 7

    def __init__(
        self,
        *rewards_S_M: list[float],
        mean: list[float] | None = None,
        borne_out: bool = True,
        blind: bool = False,
    ) -> None:
        self.rewards_S_M = torch.tensor(rewards_S_M)
        self.mean, self.is_borne_out, self.is_blind = mean, borne_out, blind
        self.seen: list[list[str]] = []

    def look(self, group: Candidates, key: str) -> Look:
        self.seen.append([response.text for response in group.responses])
        return Look(self.rewards_S_M, None if self.mean is None else torch.tensor(self.mean))


def choose(selector: Any, *texts: str, shown: int | None = None, key: str = "k") -> Decision:
    return decide(selector, PROMPT, responses(*texts), key, shown)


FOUR = ("w1", "w2", "w3", "w4")


def won(wager: Wager, answers: int) -> Wager:
    """After so many answers as they were believed, or, below 0, against the beliefs."""
    wager.add(torch.full((abs(answers),), 0.8), torch.full((abs(answers),), float(answers > 0)))
    return wager
