"""Schemas of saved states: each part of a run declares what it saves, and rejects anything else when it resumes."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from types import UnionType
from typing import TYPE_CHECKING, Any

from sea_agent.errors import UnfitState

if TYPE_CHECKING:  # imported lazily: prompts have a state too, and the small install has no torch
    import torch

_NAMED = 3  # most missing and most unknown keys to list in a message


def like(*shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The schema of a tensor of this shape, float32 by default; it holds no values."""
    import torch

    return torch.empty(shape, dtype=dtype or torch.float32, device="meta")


def require(saved: Any, schema: Any, what: str) -> None:
    """Validate ``saved`` against a schema.

    A schema is a type, a literal (None or a string), a tensor (shape and dtype), a dict (exactly these keys) or a list:
    exactly these items, or any number of the first item if ``...`` follows it.

    Raises:
        UnfitState: names the path of the first mismatch, which starts with ``what``.
    """
    import torch

    if isinstance(schema, dict):
        _require(isinstance(saved, dict), saved, dict, what)
        if schema.keys() != saved.keys():
            missing, unknown = schema.keys() - saved.keys(), saved.keys() - schema.keys()
            raise UnfitState(f"{what}: missing {_some(missing)}, unknown {_some(unknown)}")
        for key, inner in schema.items():
            require(saved[key], inner, f"{what}.{key}")
    elif isinstance(schema, list):
        _require(isinstance(saved, list), saved, list, what)
        schemas = schema[:1] * len(saved) if schema[1:] == [...] else schema
        if len(schemas) != len(saved):
            raise UnfitState(f"{what}: holds {len(saved)} items and not {len(schemas)}")
        for index, (item, inner) in enumerate(zip(saved, schemas, strict=True)):
            require(item, inner, f"{what}.{index}")
    elif isinstance(schema, torch.Tensor):
        fits = isinstance(saved, torch.Tensor) and (saved.shape, saved.dtype) == (schema.shape, schema.dtype)
        _require(fits, saved, schema, what)
    elif schema is None or isinstance(schema, str):
        _require(saved == schema, saved, schema, what)
    else:
        _require(isinstance(saved, schema), saved, schema, what)


def _require(fits: bool, saved: Any, schema: Any, what: str) -> None:
    if not fits:
        raise UnfitState(f"{what}: is {_name(saved)} and not {_name(schema)}")


def _some(keys: Iterable[Any]) -> list[str]:
    return sorted(map(str, keys))[:_NAMED]


def _name(value: Any) -> str:
    """A readable name of a schema, or of the schema of a value."""
    import torch

    if isinstance(value, torch.Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if value is None or isinstance(value, (str, UnionType)):
        return reprlib.repr(value)  # a saved string may be long
    return value.__name__ if isinstance(value, type) else type(value).__name__
