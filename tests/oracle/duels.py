"""Duels for oracles."""

from sea_agent.types import Duel, LabelSource, Prompt, Response


def duel(
    name: str = "d",
    first: str = "w1",
    second: str = "w2",
    source: LabelSource = LabelSource.ORACLE,
    prompt: str = "say w1",
) -> Duel:
    """A duel of these texts."""
    asked = Prompt("p", prompt, (3, 4))
    one, two = (
        Response(f"{name}-{side}", "p", text, (5,), (-1.0,), 0)
        for side, text in zip("ab", (first, second), strict=True)
    )
    return Duel(name, 1, asked, one, two, "passive", 0, 0, source)
