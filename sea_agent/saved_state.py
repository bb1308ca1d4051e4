"""The form of a saved state: a part says what it saves, and refuses to go on from anything else."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from types import UnionType
from typing import TYPE_CHECKING, Any

from sea_agent.errors import UnfitState

if TYPE_CHECKING:  # imported where it is needed: prompts have a state too, and the service reads them without torch
    import torch

_NAMED = 3  # keys, of those that are missing and of those that are unknown


def like(*shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The form of a tensor, of float32 unless told; it holds no values."""
    import torch

    return torch.empty(shape, dtype=dtype or torch.float32, device="meta")


def require(saved: Any, form: Any, what: str) -> None:
    """Refuse what is not of its form.

    A form is a type, None or a text (that very one), a tensor (of its shape and dtype), a dict (of exactly its keys),
    or a list: of exactly its items, or of any number of the first where ``...`` comes second.

    Raises:
        UnfitState: naming the first place that differs, which begins with ``what``.
    """
    import torch

    if isinstance(form, dict):
        _require(isinstance(saved, dict), saved, dict, what)
        if form.keys() != saved.keys():
            missing, unknown = form.keys() - saved.keys(), saved.keys() - form.keys()
            raise UnfitState(f"{what}: missing {_some(missing)}, unknown {_some(unknown)}")
        for key, inner in form.items():
            require(saved[key], inner, f"{what}.{key}")
    elif isinstance(form, list):
        _require(isinstance(saved, list), saved, list, what)
        forms = form[:1] * len(saved) if form[1:] == [...] else form
        if len(forms) != len(saved):
            raise UnfitState(f"{what}: holds {len(saved)} items and not {len(forms)}")
        for index, (item, inner) in enumerate(zip(saved, forms, strict=True)):
            require(item, inner, f"{what}.{index}")
    elif isinstance(form, torch.Tensor):
        fits = isinstance(saved, torch.Tensor) and (saved.shape, saved.dtype) == (form.shape, form.dtype)
        _require(fits, saved, form, what)
    elif form is None or isinstance(form, str):
        _require(saved == form, saved, form, what)
    else:
        _require(isinstance(saved, form), saved, form, what)


def _require(fits: bool, saved: Any, form: Any, what: str) -> None:
    if not fits:
        raise UnfitState(f"{what}: is {_told(saved)} and not {_told(form)}")


def _some(keys: Iterable[Any]) -> list[str]:
    return sorted(map(str, keys))[:_NAMED]


def _told(value: Any) -> str:
    """A form, or the form of a value."""
    import torch

    if isinstance(value, torch.Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if value is None or isinstance(value, (str, UnionType)):
        return reprlib.repr(value)  # a saved text may be long
    return value.__name__ if isinstance(value, type) else type(value).__name__
