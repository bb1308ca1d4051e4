"""Labelled duels of a run, as features: the data that a reward posterior is fitted to.

Dimension legend: N labelled duels that are kept, D features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sea_agent.errors import UnfitState
from sea_agent.saved_state import require


class Replay:
    """Labelled duels in the order they were added; each duel id may enter once."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._clear()

    def _clear(self) -> None:
        self.ids: list[str] = []
        self._known: set[str] = set()
        self._first, self._second = _Rows(self.dimension), _Rows(self.dimension)
        self._wins, self._weights, self._places = _Rows(), _Rows(), _Rows()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def kept(self) -> int:
        """Labels that were not forgotten."""
        return len(self._wins.rows)

    @property
    def first_N_D(self) -> Tensor:
        """Features of the first responses, float32."""
        return self._first.rows

    @property
    def second_N_D(self) -> Tensor:
        """Features of the second responses, float32."""
        return self._second.rows

    def differences(self, start: int, stop: int) -> Tensor:
        """Features of the first responses minus those of the second, of the kept labels from ``start`` on; float64."""
        return self.first_N_D[start:stop].double() - self.second_N_D[start:stop].double()

    @property
    def wins_N(self) -> Tensor:
        """1 where the first response won, 0 where the second did, or a probability in between."""
        return self._wins.rows

    @property
    def weights_N(self) -> Tensor:
        """How much each label counts beside one of weight 1."""
        return self._weights.rows

    @property
    def places_N(self) -> Tensor:
        """Which of the people that a posterior tells apart answered; all 0 where it tells nobody."""
        return self._places.rows.long()

    def add(
        self,
        first_N_D: Tensor,
        second_N_D: Tensor,
        first_wins_N: Tensor,
        ids: Sequence[str] | None = None,
        weights_N: Tensor | None = None,
        places_N: Tensor | None = None,
    ) -> None:
        """Append labelled duels, of weight 1 where no weights are given, numbered without ids, all by one person where
        no places are given; all or none are added.

        Raises:
            ValueError: when shapes disagree, a value is not finite, a label leaves [0, 1], a weight is not above 0, or
                an id is not new.
        """
        if ids is None:
            ids = [f"label-{len(self) + index}" for index in range(len(first_N_D))]
        count = len(ids)
        weights_N = torch.ones(count) if weights_N is None else weights_N
        rows, values = (count, self.dimension), (count,)
        places_N = torch.zeros(count) if places_N is None else places_N
        expected = {"first": rows, "second": rows, "labels": values, "weights": values, "people": values}
        given = {
            "first": first_N_D,
            "second": second_N_D,
            "labels": first_wins_N,
            "weights": weights_N,
            "people": places_N,
        }
        for name, tensor in given.items():
            if tuple(tensor.shape) != expected[name]:
                raise ValueError(f"{name} of {count} duels have shape {tuple(tensor.shape)}, not {expected[name]}")
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} hold values that are not finite")
        if ((first_wins_N < 0) | (first_wins_N > 1)).any():
            raise ValueError("labels are probabilities that the first response wins and must lie in [0, 1]")
        if (weights_N <= 0).any():
            raise ValueError("weights must be above 0")
        new = set(ids)
        if len(new) != count or new & self._known:
            raise ValueError("a duel id was added twice, its label would count twice")
        self.ids.extend(ids)
        self._known |= new
        for column, tensor in zip(self._columns, given.values(), strict=True):
            column.add(tensor.detach())

    def forget(self, count: int) -> None:
        """Drop the oldest labels that are kept, but not their ids: none may enter again."""
        for column in self._columns:
            column.forget(count)

    @property
    def _columns(self) -> tuple["_Rows", ...]:
        return self._first, self._second, self._wins, self._weights, self._places

    def state(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "first": self.first_N_D.clone(),
            "second": self.second_N_D.clone(),
            "wins": self.wins_N.clone(),
            "weights": self.weights_N.clone(),
            "people": self._places.rows.clone(),
            "ids": list(self.ids),
            "forgotten": len(self) - self.kept,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Replace the content by a saved one.

        Raises:
            UnfitState: when it was saved with another number of features, or could not have been added.
        """
        form = dict.fromkeys(("first", "second", "wins", "weights", "people"), Tensor)
        require(state, {**form, "ids": [str, ...], "forgotten": int}, "posterior.replay")
        self._clear()
        self.ids, ids = state["ids"][: state["forgotten"]], state["ids"][state["forgotten"] :]
        self._known = set(self.ids)
        try:
            self.add(state["first"], state["second"], state["wins"], ids, state["weights"], state["people"])
        except ValueError as error:
            raise UnfitState(f"posterior.replay: {error}") from None


class _Rows:
    """Float32 rows in a buffer that doubles when it is full, so that adding some hardly ever copies all."""

    def __init__(self, *shape: int) -> None:
        self._buffer, self._count = torch.empty(0, *shape), 0

    @property
    def rows(self) -> Tensor:
        return self._buffer[: self._count]

    def add(self, rows: Tensor) -> None:
        count = self._count + len(rows)
        if count > len(self._buffer):
            grown = torch.empty(max(count, 2 * len(self._buffer)), *self._buffer.shape[1:])
            grown[: self._count] = self.rows
            self._buffer = grown
        self._buffer[self._count : count] = rows
        self._count = count

    def forget(self, count: int) -> None:
        self._buffer = self._buffer[count : self._count].clone()
        self._count -= count
