"""Duels and verdicts made up for tests."""

from sea_agent.types import Duel, LabelSource, Outcome, Prompt, Response, Verdict


def duel(name: str, source: LabelSource = LabelSource.ORACLE, number: int = 3) -> Duel:
    prompt = Prompt(f"prompt-{name}", "say w1", (3, 4), messages=(("user", "say w1"),))
    first = Response(f"a-{name}", prompt.id, "w1", (4, 0), (-0.5, -0.1), 2)
    second = Response(f"b-{name}", prompt.id, "w2", (5, 0), (-0.7, -0.2), 2)
    return Duel(
        name,
        number,
        prompt,
        first,
        second,
        "sea_ee",
        2,
        1,
        source,
        belief=0.25,
        disagreement=0.125,
        typical_disagreement=0.1,
    )


def verdict(name: str, outcome: Outcome = Outcome.FIRST) -> Verdict:
    return Verdict(name, outcome, "somebody", at=12.5, probability=0.75)
