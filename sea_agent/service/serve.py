"""Run the service: one uvicorn worker, keys before anything listens beyond this machine."""

import contextlib
import gc
import logging
import os
from collections.abc import Callable

import uvloop

from sea_agent.errors import UserError
from sea_agent.service.app import make_app
from sea_agent.service.keyring import KeyRing
from sea_agent.service.settings import Settings
from sea_agent.service.state import State
from sea_agent.web.addresses import is_loopback
from sea_agent.web.listening import listen

ADMIN_KEY = "SEA_AGENT_ADMIN_KEY"
SHORTEST_ADMIN_KEY = 32


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. ``announce`` gets the lines for the operator's terminal.

    Raises:
        UserError: when the database or the address cannot be used, or keys are missing for a public address.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for talkative in ("alembic", "httpx"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again after it has shut down in order
        uvloop.run(_serve(settings, announce))


async def _serve(settings: Settings, announce: Callable[[str], None]) -> None:
    app = make_app(settings)
    async with app.router.lifespan_context(app):
        service: State = app.state.service
        await _first_key(service.keyring, settings.host, announce)
        gc.freeze()  # what stays until the end is not looked through again: a label takes about 6 % less
        page, signals = f"{service.settings.root_path}/label", service.database.signals
        await listen(app, settings.host, settings.port, page, signals, announce, settings.proxies)


def given_admin_key() -> str | None:
    """The admin key of the environment, if it has one. Raises: UserError for one that is too easy to guess."""
    given = os.environ.get(ADMIN_KEY)
    if given is not None and (len(given) < SHORTEST_ADMIN_KEY or not _is_one_word(given)):
        raise UserError(f"{ADMIN_KEY}: needs at least {SHORTEST_ADMIN_KEY} printable ASCII characters, no spaces")
    return given


def _is_one_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


async def _first_key(keyring: KeyRing, host: str, announce: Callable[[str], None]) -> None:
    """See to it that somebody can make keys."""
    given = given_admin_key()
    if given is not None:
        await _rotate(keyring, given)
    if keyring.has_admin():
        return
    if not is_loopback(host):
        raise UserError(
            f"--host {host}: refused, as nobody has a key yet. Set {ADMIN_KEY} to a random text of at least "
            f"{SHORTEST_ADMIN_KEY} characters, or start once on 127.0.0.1 to get a key."
        )
    _, secret = await keyring.make("admin", frozenset({"admin"}))
    announce(f"Admin key, shown this once: {secret}")


async def _rotate(keyring: KeyRing, given: str) -> None:
    """Make the key of the environment the only one that ever came from there.

    Raises:
        UserError: it was ended before.
    """
    if keyring.knows(given) and keyring.find(given) is None:
        raise UserError(f"{ADMIN_KEY}: this key was ended before. Set another one.")
    if not keyring.knows(given):
        await keyring.make(ADMIN_KEY, frozenset({"admin"}), annotator="admin", secret=given)
    for key in keyring.keys:
        if key.name == ADMIN_KEY and key != keyring.find(given):
            await keyring.revoke(key.id)
