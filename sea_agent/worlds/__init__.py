"""Built-in worlds: small, complete settings in which every claim can be re-run without a download.

``world://NAME/FILE`` names a file of a world wherever a path is expected.
"""

from importlib import resources

from sea_agent.errors import UserError

SCHEME = "world://"


def resolve(path: str) -> str:
    """The path on disk of ``world://NAME/FILE``; any other path is returned as it is.

    Raises:
        UserError: when the world has no such file.
    """
    if not path.startswith(SCHEME):
        return path
    target = resources.files("sea_agent") / "worlds" / "data" / path.removeprefix(SCHEME)
    if not (target.is_file() or target.is_dir()):
        raise UserError(f"{path}: no such file of a built-in world; make it with `sea-agent world make`")
    return str(target)
