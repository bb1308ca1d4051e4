"""Settings that fit the tiny policies of the built-in worlds and would ruin a language model."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sea_agent.errors import UserError

# The policies of the worlds have a fifth of a million parameters; small language models begin at a hundred million.
_MOST_PARAMETERS = 5_000_000
_WORLD = "world://"


def refuse_world_settings(
    policy: str, values: Mapping[str, float], preset: Mapping[str, Any], own: Collection[str], where: str
) -> None:
    """Refuse to train a larger ``policy`` with settings of a ``preset`` for a world.

    Args:
        policy: its path.
        values: the settings in question by dotted key, as they would be used.
        preset: the preset that the configuration extends.
        own: dotted keys that the user set. Those are never refused.
        where: what names the preset.

    Raises:
        UserError: naming the settings and the remedy.
    """
    inherited = [key for key in values if key not in own]
    if not inherited or policy.startswith(_WORLD) or not preset["policy"]["path"].startswith(_WORLD):
        return
    size = parameters(policy)
    if (size is not None and size <= _MOST_PARAMETERS) or _is_missing(policy):
        return
    shown = " and ".join(f"{key}={values[key]:g}" for key in inherited)
    counted = "of unknown size" if size is None else f"{size:,} weights"
    raise UserError(
        f"{where}: {shown} would ruin policy.path={policy} ({counted}): the preset sets this for the tiny policy of a "
        "built-in world. Set "
        f"{' and '.join(inherited)} yourself, or start from the preset for a policy of your own, `extends: own`."
    )


def _is_missing(path: str) -> bool:
    """Whether it is a path on disk, and no name on the hub, where nothing is yet; what loads the policy says so."""
    on_disk = path.startswith((".", "/", "~")) or path.count("/") > 1
    return on_disk and not Path(path).exists()


def parameters(path: str) -> int | None:
    """The number of weights in a model directory, by the headers of its files; None if there are none to be read."""
    try:
        return sum(map(_weights, Path(path).glob("*.safetensors"))) or None
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None  # damaged: what loads the policy says so


def _weights(file: Path) -> int:
    """By the format of safetensors: the length of the header in eight bytes, then the header as JSON."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(min(length, file.stat().st_size)))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
