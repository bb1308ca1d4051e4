"""Built-in worlds: small, complete settings to reproduce every claim in without a download.

``world://NAME/FILE`` names a file of a world wherever a path is expected.
"""

from collections.abc import Callable
from importlib import resources
from types import ModuleType

from sea_agent.errors import UserError
from sea_agent.worlds import kitchen, lexicon, reviews, tastes

SCHEME = "world://"
_WORLDS: dict[str, ModuleType] = {"lexicon": lexicon, "kitchen": kitchen, "reviews": reviews, "tastes": tastes}


def resolve(path: str) -> str:
    """The path on disk of ``world://NAME/FILE``; any other path is returned unchanged.

    Raises:
        UserError: the world has no such file.
    """
    if not path.startswith(SCHEME):
        return path
    target = resources.files("sea_agent") / "worlds" / "data" / path.removeprefix(SCHEME)
    if not (target.is_file() or target.is_dir()):
        raise UserError(f"{path}: no such file of a built-in world; make it with `sea-agent world make`")
    return str(target)


def world(name: str) -> ModuleType:
    """The module of a built-in world: its scorers, and whatever else the world has, such as ``attributes``.

    Raises:
        UserError: there is no such world.
    """
    if name not in _WORLDS:
        raise UserError(f"{name}: no such built-in world; there is {', '.join(_WORLDS)}")
    return _WORLDS[name]


def scorer(name: str, kind: str) -> Callable[[str, str], float]:
    """A scorer of a world, such as its hidden ``reward`` or independent ``judge``.

    It maps (prompt, response) to a score in logits, and may load its weights on the first call.

    Raises:
        UserError: there is no such world or scorer.
    """
    scorers = world(name).SCORERS
    if kind not in scorers:
        raise UserError(f"{kind}: the world {name} has no such scorer; there is {', '.join(scorers)}")
    score: Callable[[str, str], float] = getattr(world(name), kind)
    return score
