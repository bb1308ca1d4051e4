"""Drift of prompts: none between prompts of one kind, whole between kinds, and never from a template or few prompts."""

from collections.abc import Sequence

import numpy as np
import pytest

from sea_agent.live import drift as drifting
from sea_agent.live.drift import drift
from sea_agent.types import Prompt

TEMPLATE = (1, 2, 3)


def of_kind(kind: int, count: int, seed: int, template: Sequence[int] = TEMPLATE) -> list[Prompt]:
    """Prompts of 12 words of a kind, the first of which are frequent, behind what all prompts have."""
    words = np.random.default_rng([kind, seed]).zipf(1.5, (count, 12)).clip(max=99) + 100 * (kind + 1)
    return [Prompt(f"p{place}", "", (*template, *row)) for place, row in enumerate(words.tolist())]


def test_prompts_of_one_kind_have_not_drifted_however_few_there_are() -> None:
    for count in (8, 16, 64):
        found = [drift(of_kind(0, count, 2 * seed), of_kind(0, count, 2 * seed + 1)) for seed in range(40)]
        assert np.mean([value for value in found if value is not None]) < 0.1


def test_with_prompts_compared_with_themselves_few_would_have_drifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drifting, "_between_others", np.mean)
    assert (drift(of_kind(0, 8, 0), of_kind(0, 8, 1)) or 0.0) > 0.2


def test_it_grows_with_the_share_of_prompts_of_another_kind() -> None:
    earlier = of_kind(0, 64, 0)
    found = [drift([*of_kind(0, 64 - new, 1), *of_kind(1, new, 1)], earlier) for new in (0, 16, 32, 48, 64)]
    values = [value for value in found if value is not None]
    assert values == sorted(values)
    assert values[0] < 0.05
    assert 0.2 < values[2] < 0.8
    assert values[4] == 1.0


def test_what_all_prompts_have_tells_nothing() -> None:
    long = tuple(range(2000, 2200))
    for kinds in ((0, 0), (0, 1)):
        bare, dressed = (
            drift(of_kind(kinds[0], 20, 0, template), of_kind(kinds[1], 20, 1, template)) for template in ((), long)
        )
        assert bare == pytest.approx(dressed)


def test_nothing_is_said_of_few_prompts_or_of_such_as_have_nothing_in_common() -> None:
    assert drift(of_kind(0, 7, 0), of_kind(0, 64, 1)) is None
    assert drift(of_kind(0, 64, 0), []) is None
    apart = [Prompt(f"p{place}", "", (place,)) for place in range(40)]
    assert drift(apart[:20], apart[20:]) is None
    assert drift([apart[0]] * 20, [apart[0]] * 20) is None, "nothing tells them apart"
