"""Built-in worlds: small, complete settings to reproduce every claim in without a download.

``world://NAME/FILE`` names a file of a world wherever a path is expected.
"""

from collections.abc import Callable
from importlib import resources
from types import ModuleType

from sea_agent.errors import UserError
from sea_agent.worlds import kitchen, lexicon

SCHEME = "world://"
_WORLDS: dict[str, ModuleType] = {"lexicon": lexicon, "kitchen": kitchen}


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
    """The module of a built-in world: words, texts, reward and judge, and ``attributes`` if it has an encoder.

    Raises:
        UserError: there is no such world.
    """
    if name not in _WORLDS:
        raise UserError(f"{name}: no such built-in world; there is {', '.join(_WORLDS)}")
    return _WORLDS[name]


def scorer(name: str, kind: str) -> Callable[[str, str], float]:
    """The hidden ``reward`` or the independent ``judge`` of a world; maps (prompt, response) to a score in logits.

    Raises:
        UserError: there is no such world or scorer.
    """
    scorers = {"reward": world(name).reward, "judge": world(name).judge}
    if kind not in scorers:
        raise UserError(f"{kind}: the world {name} has no such scorer; there is {', '.join(scorers)}")
    return scorers[kind]
