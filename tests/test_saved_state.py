"""A saved state is of its form, or the first place where it is not is named."""

from typing import Any

import pytest
import torch

from sea_agent.errors import UnfitState
from sea_agent.saved_state import like, require

FORM: dict[Any, Any] = {
    "count": int,
    "family": "ensemble",
    "latest": dict | None,
    "nothing": None,
    "rows": [[like(2), ...], ...],
    "pair": [int, str],
    3: {"mean": like(1, 2, dtype=torch.float64)},
}


def saved(**changes: Any) -> dict[Any, Any]:
    state: dict[Any, Any] = {
        "count": 3,
        "family": "ensemble",
        "latest": None,
        "nothing": None,
        "rows": [[], [torch.ones(2), torch.zeros(2)]],
        "pair": [1, "one"],
        3: {"mean": torch.zeros(1, 2, dtype=torch.float64)},
    }
    return state | changes


def test_what_is_of_its_form_passes() -> None:
    require(saved(), FORM, "part")
    require(saved(latest={"win_rate": 0.5}, rows=[]), FORM, "part")


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ([], "part: is list and not dict"),
        (saved(count=1.5), "part.count: is float and not int"),
        (saved(count=None), "part.count: is None and not int"),
        (saved(family="laplace"), "part.family: is 'laplace' and not 'ensemble'"),
        (saved(latest=[]), "part.latest: is list and not dict | None"),
        (saved(nothing=0), "part.nothing: is int and not None"),
        (saved(rows={}), "part.rows: is dict and not list"),
        (saved(rows=[[], [torch.ones(2), torch.ones(3)]]), "part.rows.1.1: is torch.float32 of shape (3,)"),
        (saved(rows=[[None]]), "part.rows.0.0: is None and not torch.float32 of shape (2,)"),
        (saved(rows=[[torch.ones(2).half()]]), "is torch.float16 of shape (2,) and not torch.float32 of shape (2,)"),
        (saved(pair=[1]), "part.pair: holds 1 items and not 2"),
        (saved(pair=["one", 1]), "part.pair.0: is 'one' and not int"),
        (saved(more=1, less=2), "part: missing [], unknown ['less', 'more']"),
        ({3: {}, **dict.fromkeys("abcd")}, "missing ['count', 'family', 'latest'], unknown ['a', 'b', 'c']"),
        (saved() | {3: {"mean": torch.zeros(2)}}, "part.3.mean: is torch.float32 of shape (2,)"),
    ],
)
def test_the_first_place_that_is_not_of_its_form_is_named(state: Any, told: str) -> None:
    with pytest.raises(UnfitState) as caught:
        require(state, FORM, "part")
    assert told in str(caught.value)
