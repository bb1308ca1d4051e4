"""Bring a database to the newest schema."""

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from sea_agent.errors import UserError


def migrate(connection: Connection, revision: str = "head") -> None:
    """Apply every migration that is missing, in the connection's transaction.

    Raises:
        UserError: when the database was written by a newer version than this one.
    """
    config = Config()
    config.set_main_option("script_location", "sea_agent.service.store:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise UserError(
            f"the database cannot be brought to this version's schema: {error}. Update sea-agent."
        ) from None
