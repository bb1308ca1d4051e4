"""Which runs are those of live mode."""

from collections.abc import Collection

from sqlalchemy import Connection, Row, select

from sea_agent.service.store.live_tables import live_runs
from sea_agent.service.store.tables import runs


def everything(connection: Connection, reach: Collection[str] | None = None) -> list[Row]:
    """The runs of live mode, the newest first: id, name, created_at. ``reach``: those of a key; None is all."""
    found = (
        select(runs.c.id, runs.c.name, runs.c.created_at)
        .join(live_runs, live_runs.c.run == runs.c.id)
        .order_by(runs.c.created_at.desc(), runs.c.id)
    )
    if reach is not None:
        found = found.where(runs.c.id.in_(list(reach)))
    return list(connection.execute(found))
